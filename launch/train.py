"""Train a config in a workdir, or resume the run that is there."""

from absl import flags

from launch import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; also gs://BUCKET/RUN or s3://BUCKET/RUN"
)
ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Resume a run although its config differs"
)
ALLOW_DATA = flags.DEFINE_bool(
    "allow_data_change", False, "Resume a run although its data differs"
)
RESTORE = flags.DEFINE_integer(
    "restore_step", None, "Resume from this checkpoint; later ones are set aside"
)
CACHE = flags.DEFINE_bool(
    "compile_cache", True, "Keep compiled programs in the workdir, for faster restarts"
)
PEERS = flags.DEFINE_integer(
    "peer_timeout_s", 60, "Seconds until a process that died ends the others"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, if no scheduler sets it"
)
PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes of the job, if no scheduler sets it"
)
PROCESS = flags.DEFINE_integer("process_id", None, "Number of this process, from 0")
CONNECT = flags.DEFINE_float(
    "connect_s", 1800.0, "Seconds to wait for the other processes of the job"
)


def main():
    if CONFIG.value is None or not WORKDIR.value:
        raise ValueError("--config=FILE[:preset] and --workdir=DIR are both needed")
    from core.parallel import distributed
    from core.runs.compile_cache import keep_programs
    from core.runs.mirror import run_place
    from core.runs.preemption import Preempted
    from core.runs.working import say
    from core.train import fit

    job = COORDINATOR.value, PROCESSES.value, PROCESS.value
    distributed.start(*job, connect_s=CONNECT.value, peer_timeout_s=PEERS.value)
    if CACHE.value:
        keep_programs(run_place(WORKDIR.value, what="--workdir"))
    try:
        fit(
            CONFIG.value,
            WORKDIR.value,
            allow_config_change=ALLOW_CHANGE.value,
            allow_data_change=ALLOW_DATA.value,
            restore_step=RESTORE.value,
        )
    except Preempted as stop:
        say(str(stop), everywhere=True)
        return cli.PREEMPTED


if __name__ == "__main__":
    cli.run(main)
