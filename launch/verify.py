"""Check that a run or an export at rest is what was written, by its digests."""

from absl import flags

from launch import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run")
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Folder of an export, or of published weights in safetensors format",
)


def main():
    if bool(WORKDIR.value) == bool(WEIGHTS.value):
        raise ValueError("--workdir=RUN or --weights=EXPORT is needed, one of them")
    from core.base.places import local_folder
    from core.export import verify
    from core.runs.mirror import copied

    if WORKDIR.value:
        folder, fetch, _ = copied(WORKDIR.value)
        fetch()
        findings = verify.verify_run(folder)
    else:
        findings = verify.verify_weights(local_folder(WEIGHTS.value, what="--weights"))
    count, damaged = 0, 0
    for item, problem, note in findings:
        count, damaged = count + 1, damaged + bool(problem)
        word = "DAMAGED" if problem else "ok"
        print(f"{word:8} {item}: {problem or note}", flush=True)
    print(f"{damaged} of {count} items are damaged")
    return cli.USER_ERROR if damaged else cli.DONE


if __name__ == "__main__":
    cli.run(main)
