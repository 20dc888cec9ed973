"""The AWS training images we know: what they hold, and where each region keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.errors import RecipeError

REPOSITORY = "huggingface-pytorch-training"
HOME_REGISTRY = "763104351884"
# Regions whose images lie in an account of their own, as SDK 2.257 lists them.
REGISTRIES = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-northeast-3": "364406365360",
    "ap-southeast-3": "907027046896",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-south-1": "692866216735",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
    "us-iso-east-1": "886529160074",
    "us-isob-east-1": "094389454867",
}
DOMAINS = {"cn-": "amazonaws.com.cn", "us-iso-": "c2s.ic.gov", "us-isob-": "sc2s.sgov.gov"}


@dataclass(frozen=True)
class Image:
    """One training image: the versions it was built with, and whether SDK v2 resolves it by version."""

    version: str
    transformers: str
    python: str
    tag: str
    patched_until: str
    in_sdk: bool = False
    without: tuple[str, ...] = ()  # GPUs that its CUDA has no kernels for
    pins: Mapping[str, str] = field(default_factory=dict)


CUDA_13_WITHOUT = ("V100",)  # which PyTorch's builds for it leave out, as CUDA 13 itself does

IMAGES = (
    Image(
        version="2.8.0",
        transformers="4.56.2",
        python="py312",
        tag="2.8.0-transformers4.56.2-gpu-py312-cu129-ubuntu22.04",
        patched_until="2026-08-06",
        in_sdk=True,
        pins={
            "torch": "2.8.0",
            "transformers": "4.56.2",
            "trl": "0.23.0",
            "peft": "0.17.1",
            "accelerate": "1.10.1",
            "datasets": "4.1.0",
        },
    ),
    Image(
        version="2.5.1",
        transformers="4.49.0",
        python="py311",
        tag="2.5.1-transformers4.49.0-gpu-py311-cu124-ubuntu22.04",
        patched_until="2025-10-29",
        in_sdk=True,
        pins={
            "torch": "2.5.1",
            "transformers": "4.49.0",
            "trl": "0.15.2",
            "peft": "0.14.0",
            "accelerate": "1.4.0",
            "datasets": "3.3.2",
        },
    ),
    Image(
        version="2.9.0",
        transformers="5.3.0",
        python="py312",
        tag="2.9.0-transformers5.3.0-gpu-py312-cu130-ubuntu22.04",
        patched_until="",
        without=CUDA_13_WITHOUT,
        pins={"torch": "2.9.0", "transformers": "5.3.0", "trl": "0.28.0", "peft": "0.18.1"},
    ),
    Image(
        version="2.11.0",
        transformers="5.13.1",
        python="py312",
        # Two sources name this tag differently; where ECR says it is missing, give the other one as image.uri.
        tag="2.11.0-transformers5.13.1-gpu-py312-cu130-amzn2023-sagemaker",
        patched_until="2027-04-30",
        without=CUDA_13_WITHOUT,
        pins={
            "torch": "2.11.0",
            "transformers": "5.13.1",
            "trl": "1.8.0",
            "peft": "0.19.1",
            "accelerate": "1.14.0",
            "datasets": "5.0.0",
        },
    ),
)
DEFAULT_VERSION = IMAGES[0].version
OLDEST_CUDA = "2.5.1"  # CUDA 12.4, which surely has kernels for old GPUs


def image_named(version: str) -> Image:
    """The image with this PyTorch version, or an error that lists the known ones."""
    for image in IMAGES:
        if image.version == version:
            return image
    known = ", ".join(image.version for image in IMAGES)
    raise RecipeError(
        f"image.version is {version!r}; the known images are {known}.",
        hint="Use one of these, or give any image in full as image.uri.",
    )


def find_chosen(version: str, uri: str) -> Image | None:
    """What a recipe asks for; None for an image that is not known."""
    return find_image(uri) if uri else next((image for image in IMAGES if image.version == version), None)


def make_uri(image: Image, region: str) -> str:
    registry = REGISTRIES.get(region, HOME_REGISTRY)
    return f"{registry}.dkr.ecr.{region}.{_domain(region)}/{REPOSITORY}:{image.tag}"


def find_image(uri: str) -> Image | None:
    """The known image behind a URI, or None for an image of the user's own."""
    path, _, tag = uri.rpartition(":")
    if not path.endswith(f"/{REPOSITORY}"):
        return None
    return next((image for image in IMAGES if image.tag == tag), None)


def _domain(region: str) -> str:
    # The longest prefix first: us-isob- also begins with us-iso.
    for prefix in sorted(DOMAINS, key=len, reverse=True):
        if region.startswith(prefix):
            return DOMAINS[prefix]
    return "amazonaws.com"
