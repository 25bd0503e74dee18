"""Compile the train step of a config for machines that are not here, and forecast it."""

from absl import flags

from launch import cli

CONFIG = cli.define_config()
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Machine, such as v5p:4x4x8, h200:1x8 (hosts x GPUs)"
)
SLICES = flags.DEFINE_integer("slices", 1, "Slices of it")
JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of lines")


def main():
    import json

    from core import ahead, machines

    machine = machines.parse(TOPOLOGY.value, SLICES.value)
    found = ahead.forecast(CONFIG.value, machine)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    cli.run(main)
