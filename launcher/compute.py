"""What may stand together in a recipe's [compute]: spot, several types, a warm pool, a closed network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from launcher import images
from launcher.errors import RecipeError
from launcher.instances import Instance, find_instance
from launcher.recipe_sections import Compute

MAX_TYPES = 5
MAX_KEEP_ALIVE_S = 21_600
MAX_RUNTIME_S = 28 * 24 * 3600  # botocore's model has no upper bound; SageMaker's own is this
TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9]+")
NVIDIA = re.compile(r"ml\.[gp]r?\d")  # what AWS's image for GPUs runs on; every other family is refused by the SDK
NETWORK_IDS = {"subnets": re.compile(r"subnet-[0-9a-f]{8,17}"), "security_groups": re.compile(r"sg-[0-9a-f]{8,17}")}
MAX_NETWORK_IDS = {"subnets": 16, "security_groups": 5}


def check_compute(compute: Compute, output_key: str = "") -> None:
    """Raise at the first thing that AWS would refuse, before anything is sent."""
    _check_types(compute)
    _check_numbers(compute)
    _check_spot(compute)
    _check_keep_alive(compute)
    _check_network(compute)
    _check_volume_key(compute, output_key)


def check_image(compute: Compute, image: images.Image | None) -> None:
    """Refuse a GPU that nothing in the image can run on."""
    for name in compute.instances:
        known = find_instance(name)
        if image and known and known.gpu in image.without:
            raise RecipeError(
                f"The image {image.version} cannot run on {name}: its CUDA has no kernels for the {known.gpu}.",
                hint=f'Use a type such as ml.g5.xlarge, or image.version = "{images.OLDEST_CUDA}".',
            )


def _check_types(compute: Compute) -> None:
    types = compute.instances
    for name in types or ("",):
        if not TYPE.fullmatch(name):
            raise RecipeError(
                f"compute.instance is {name!r}, which is not a SageMaker instance type.",
                hint="Use local, or a type such as ml.g5.xlarge; several with commas.",
            )
        if not NVIDIA.match(name):
            raise RecipeError(
                f"compute.instance is {name}, which has no NVIDIA GPU to train on.",
                hint="Take a type such as ml.g5.xlarge, or train a small stand-in here with --instance local.",
            )
        if (known := find_instance(name)) and known.useless:
            raise RecipeError(
                f"compute.instance is {name}, which cannot run this training: {known.useless}.",
                hint="Take a type such as ml.g5.xlarge.",
            )
    if len(types) == 1:
        return
    if len(types) > MAX_TYPES or len(set(types)) < len(types):
        raise RecipeError(
            f"compute.instance has {len(types)} types; AWS takes up to {MAX_TYPES}, each of them once.",
            hint="Name the ones you want most, in that order.",
        )
    if compute.spot:
        raise RecipeError(
            "AWS walks a list of instance types on demand only, never for spot.",
            hint="Name one type with --spot, or leave --spot out.",
        )
    _check_alike(types)


def _check_alike(types: tuple[str, ...]) -> None:
    """Hyperparameters are fixed before AWS picks a type: another number of GPUs would be another batch."""
    known = {name: _known(name) for name in types}
    first = types[0]
    for name, instance in known.items():
        if instance.gpus != known[first].gpus:
            raise RecipeError(
                f"{name} has {instance.gpus} GPUs and {first} has {known[first].gpus}: a step would have other rows.",
                hint="List types with the same number of GPUs.",
            )


def _known(name: str) -> Instance:
    instance = find_instance(name)
    if instance is None:
        raise RecipeError(
            f"compute.instance lists {name}, whose GPUs are not known here.",
            hint="In a list use known types; alone, any type goes.",
        )
    return instance


def _check_numbers(compute: Compute) -> None:
    for key, value in (
        ("count", compute.count),
        ("volume_gb", compute.volume_gb),
        ("max_runtime", compute.max_runtime_s),
    ):
        if value <= 0:
            raise RecipeError(f"compute.{key} is {value}; it must be above 0.")
    if compute.max_runtime_s > MAX_RUNTIME_S:
        raise RecipeError(
            f"compute.max_runtime is {compute.max_runtime_s:,} s; SageMaker runs a job for at most 28 days.",
            hint="Use --max-runtime 28d or less; a run whose limit was reached goes on from its last checkpoint.",
        )
    for key, dollars in (("max_cost", compute.max_cost), ("confirm_above", compute.confirm_above)):
        if not 0 <= dollars < float("inf"):
            raise RecipeError(f"compute.{key} is {dollars}; it must be a number of dollars, 0 or more.")


def _check_spot(compute: Compute) -> None:
    if not compute.spot and compute.max_wait_s:
        raise RecipeError("compute.max_wait is for spot jobs only.", hint="Add --spot, or remove max_wait.")
    if not compute.spot and compute.on_demand_after_wait:
        raise RecipeError(
            "compute.on_demand_after_wait is for spot jobs only.", hint="Add --spot, or remove on_demand_after_wait."
        )
    if compute.spot and 0 < compute.max_wait_s < compute.max_runtime_s:
        raise RecipeError(
            f"compute.max_wait is {compute.max_wait_s} s, less than the {compute.max_runtime_s} s of max_runtime.",
            hint="SageMaker counts both from the start: make max_wait at least max_runtime.",
        )


def _check_keep_alive(compute: Compute) -> None:
    if not 0 <= compute.keep_alive_s <= MAX_KEEP_ALIVE_S:
        raise RecipeError(
            f"compute.keep_alive is {compute.keep_alive_s:,} s; a warm pool lives at most {MAX_KEEP_ALIVE_S:,} s.",
            hint="Use --keep-alive 6h or less.",
        )
    if compute.keep_alive_s and compute.spot:
        raise RecipeError(
            "Spot capacity cannot be kept alive: AWS has no warm pools of it.",
            hint="Leave out --spot or --keep-alive.",
        )


def _check_network(compute: Compute) -> None:
    given = {"subnets": compute.subnets, "security_groups": compute.security_groups}
    if bool(compute.subnets) != bool(compute.security_groups):
        missing = next(key for key, ids in given.items() if not ids)
        raise RecipeError(
            f"compute.{missing} is empty, though the other of subnets and security_groups is given.",
            hint="A job in a VPC needs both; one in AWS's own network neither.",
        )
    for key, ids in given.items():
        if len(ids) > MAX_NETWORK_IDS[key]:
            raise RecipeError(f"compute.{key} has {len(ids)} ids; AWS takes up to {MAX_NETWORK_IDS[key]}.")
        for name in ids:
            if not NETWORK_IDS[key].fullmatch(name):
                raise RecipeError(
                    f"compute.{key} has {name!r}, which is not the id of one.",
                    hint="Ids look like subnet-0123456789abcdef0 and sg-0123456789abcdef0.",
                )


def _check_volume_key(compute: Compute, output_key: str) -> None:
    own_disk = [name for name in compute.instances if has_own_disk(name)]
    if compute.volume_kms_key and own_disk:
        raise RecipeError(
            f"{own_disk[0]} brings its own encrypted disk, and AWS refuses a key for it.",
            hint="Remove compute.volume_kms_key; output.kms_key encrypts what the job leaves.",
        )
    if output_key and 0 < len(own_disk) < len(compute.instances):
        raise RecipeError(
            f"output.kms_key is for a job's volume too, but {own_disk[0]} brings its own disk and the others do not.",
            hint="List types that all bring their own disk, or that all have none.",
        )


def has_own_disk(name: str) -> bool:
    known = find_instance(name)
    return bool(known and known.nvme)


def volume_key(compute: Compute, output_key: str) -> str:
    """The key of the job's volume: its own, else the output's where it is known that no type brings its own disk."""
    if compute.volume_kms_key or any(has_own_disk(name) or not find_instance(name) for name in compute.instances):
        return compute.volume_kms_key
    return output_key


def compute_notes(compute: Compute, output_key: str = "") -> list[str]:
    """What these settings cost or need, in a plan."""
    notes = [*_unknown_notes(compute, output_key)]
    if len(compute.instances) > 1:
        notes.append(f"AWS takes the first of {', '.join(compute.instances)} that it has at the moment")
    if compute.keep_alive_s:
        notes.append(
            f"warm pool: up to {compute.keep_alive_s:,} s more are billed after the job, at the same price, until a "
            "job with the same instance, volume, role and network takes it over; needs a warm-pool quota (0 by default)"
        )
    if compute.on_demand_after_wait:
        notes.append(
            "on demand after the wait: whoever follows the job (submit, wait, logs -f) starts it; nobody else does"
        )
    if compute.encrypt_traffic and compute.count == 1:
        notes.append("encrypt_traffic is about traffic between instances, and this job has one")
    return notes


def _unknown_notes(compute: Compute, output_key: str) -> Iterator[str]:
    if find_instance(compute.instance):
        return
    yield f"how many GPUs {compute.instance} has is not known here: the job uses one, and all of them are billed"
    if output_key and not compute.volume_kms_key:
        yield (
            f"whether {compute.instance} brings its own disk is not known here, so its volume gets no key of yours; "
            "compute.volume_kms_key names one where it has none"
        )


def drop_without_quota(compute: Compute, quotas: Mapping[str, float]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(kept, dropped): a type of a quota below what the job takes can never be had; an unknown quota is kept."""
    types = compute.instances
    dropped = tuple(name for name in types if quotas.get(name, compute.count) < compute.count)
    return tuple(name for name in types if name not in dropped), dropped
