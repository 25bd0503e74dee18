"""Lets Orbax read and write s3://, which TensorStore can and Orbax 0.12 does not pass on to it.

Orbax treats gs:// in four functions of its own; here they treat s3:// in the same way: no
renames, a file that says that a checkpoint is complete, and TensorStore's own driver.
"""

import functools
import os

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

REGION = "us-east-1"  # for servers at an address of their own, which need some region
PRIVATE = (
    (gcs_utils, "is_gcs_path"),
    (gcs_utils, "get_kvstore_for_gcs"),
    (tensorstore_utils, "_use_gcs_driver"),
    (tensorstore_utils, "_normalize_path"),
)


@functools.cache
def allow_s3() -> None:
    """Replace the four functions, once. Raises ValueError if this Orbax has others."""
    if missing := [name for module, name in PRIVATE if not hasattr(module, name)]:
        raise ValueError(
            f"this version of orbax-checkpoint has no {missing[0]}, so checkpoints cannot be "
            "on s3://; install the version of pyproject.toml, or mount the bucket"
        )
    is_gcs, store = gcs_utils.is_gcs_path, gcs_utils.get_kvstore_for_gcs
    use_driver = tensorstore_utils._use_gcs_driver
    normalize = tensorstore_utils._normalize_path
    gcs_utils.is_gcs_path = lambda path: is_s3(path) or is_gcs(path)
    gcs_utils.get_kvstore_for_gcs = lambda path: (
        s3_store(path) if is_s3(path) else store(path)
    )
    tensorstore_utils._use_gcs_driver = lambda path: is_s3(path) or use_driver(path)
    tensorstore_utils._normalize_path = lambda path: normalize(path).replace(
        "s3:/", "s3://"
    )


def is_s3(path) -> bool:
    return str(path).startswith("s3://")


def s3_store(path: str) -> dict:
    """TensorStore's description of a place, with the settings that AWS tools read."""
    bucket, _, inside = str(path).removeprefix("s3://").partition("/")
    store = {"driver": "s3", "bucket": bucket, "path": inside}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get(
        "AWS_ENDPOINT_URL"
    )
    if endpoint:
        store |= {"endpoint": endpoint, "aws_region": region or REGION}
    elif region:
        store |= {"aws_region": region}
    if "AWS_ACCESS_KEY_ID" in os.environ:  # do not look for files, which are logged
        store |= {"aws_credentials": {"type": "environment"}}
    return store
