"""What the train loop tells people: progress, metrics, findings, bad samples, a summary."""

import json

import jax
import numpy as np

from core import metrics, run, sharding
from core.writer import Writer, append

SUMMARY = "summary.json"
BAD_SAMPLES = "bad_samples.jsonl"


class Diverged(ValueError):
    """Too many updates in a row were not finite."""


class Reporter:
    """Writes a run's folder and terminal from process 0; every process watches for NaN.

    Metrics are read one step late, so that the device always has a step to work on.
    """

    def __init__(self, folder, method, config, start: int):
        self.folder, self.method, self.config, self.start = (
            folder,
            method,
            config,
            start,
        )
        self.main = jax.process_index() == 0
        self.writer = Writer(folder, start, active=self.main)
        self.clock = metrics.Throughput()
        self.before = None  # (step, metrics) of the step that is still running
        self.last_scalars = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.writer.close()

    def say(self, text: str):
        if self.main:
            print(text, flush=True)

    def opening(self, plan):
        """Layouts and provenance of the run, and the first line."""
        if self.main:
            report = sharding.layout_report(plan.shapes, plan.layouts)
            (self.folder / "layout.txt").write_text(report)
            self.say(report.splitlines()[0])
            if not self.start:
                origin = run.provenance(self.config.init_from or None)
                run.write_json(self.folder / "provenance.json", origin)
        verb = f"resuming after step {self.start}" if self.start else "starting"
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        self.say(f"{verb} in {self.folder} on {devices}")

    def step(self, step: int, values: dict, source):
        """Take the metrics of a step just started; tell those of the step before."""
        self.flush(source)
        self.before = (step, values)
        if step == self.config.steps:
            self.flush(source)

    def flush(self, source):
        """Check and, where it is due, write what is waiting."""
        if self.before is None:
            return
        step, values = self.before
        self.before = None
        self.check(step, values)
        if step % self.config.log_steps and step != self.config.steps:
            return
        scalars = {k: float(v) for k, v in jax.device_get(values).items()}
        rates = self.clock.report(self.config.steps - step)
        told = self.told(source)
        self.last_scalars |= scalars
        self.writer.write(step, scalars | self.timing(rates) | told)
        shown = {"loss": scalars["loss"]} | {k: v for k, v in told.items() if v}
        unit = self.method.unit
        self.say(
            metrics.progress_line(step, self.config.steps, shown, rates, unit=unit)
        )

    def check(self, step, values):
        """Stop a run whose updates are not finite."""
        bad = int(values["bad_steps"])
        if bad == 1:
            self.say(f"step {step}: loss or gradient is not finite; update not applied")
        if bad >= self.config.max_bad_steps:
            raise Diverged(
                f"loss or gradient was not finite in {bad} steps in a row, up to step "
                f"{step}; the last checkpoint holds the weights from before. Lower "
                "optimizer.lr, or look at bad_samples.jsonl and the data"
            )

    def timing(self, rates):
        """Speed and memory, under names apart from what training computes."""
        device = jax.devices()[0].device_kind
        used = metrics.mfu(
            self.method.flops, rates.step_seconds, jax.device_count(), device
        )
        seen = {
            "time/step_seconds": rates.step_seconds,
            f"time/{self.method.unit}_per_second": rates.examples_per_second,
            "time/data_wait_share": rates.wait_share,
            "time/host_peak_bytes": metrics.peak_host_bytes(),
            **{f"time/{k}": v for k, v in metrics.device_memory().items()},
        }
        return seen | ({"time/mfu": used} if used is not None else {})

    def told(self, source):
        """Counts of bad samples, each new one written with its name and reason."""
        report = source.report()
        for sample in report["new"]:
            line = json.dumps(sample) + "\n"
            append(self.folder / BAD_SAMPLES, line.encode())
        return {"bad_samples": report["bad"]}

    def found(self, step: int, findings: dict):
        """Write the numbers and pictures of an evaluation, and say its sentences."""
        scalars, pictures = {}, {}
        for name, value in findings.items():
            if isinstance(value, list):
                for sentence in value:
                    self.say(f"step {step}: ALARM: {sentence}")
            elif isinstance(value, np.ndarray) and value.ndim:
                pictures[name] = value
            else:
                scalars[name] = float(value)
        self.writer.write(step, scalars, pictures)
        self.last_scalars |= scalars
        if scalars:
            shown = "  ".join(f"{k} {metrics.short(v)}" for k, v in scalars.items())
            self.say(f"step {step}: {shown}")

    def closing(self):
        """The summary: the last value of every number, in a file and on the terminal."""
        if self.main:
            run.write_json(self.folder / SUMMARY, self.last_scalars)
        self.say(f"done: {self.config.steps} steps; summary in {self.folder / SUMMARY}")
