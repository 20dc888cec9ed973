"""The GPU instances people train on: how many GPUs of which kind, with how much memory.

Every type with an NVIDIA GPU that SageMaker trains on; numbers as EC2's DescribeInstanceTypes has them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instance:
    gpus: int
    gpu: str
    gpu_memory_gb: int
    memory_gb: int  # of the host, where a model is loaded and merged
    nvme: bool = False
    useless: str = ""  # why AWS's images for training cannot run here


NO_CUDA = "CUDA 12 and its successors, which every image here is built on, have left the K80 behind"
ARM = "its processor is an ARM one, and every image here is built for x86"

INSTANCES = {
    "ml.g4dn.xlarge": Instance(1, "T4", 16, 16, nvme=True),
    "ml.g4dn.2xlarge": Instance(1, "T4", 16, 32, nvme=True),
    "ml.g4dn.4xlarge": Instance(1, "T4", 16, 64, nvme=True),
    "ml.g4dn.8xlarge": Instance(1, "T4", 16, 128, nvme=True),
    "ml.g4dn.16xlarge": Instance(1, "T4", 16, 256, nvme=True),
    "ml.g4dn.12xlarge": Instance(4, "T4", 16, 192, nvme=True),
    "ml.g5.xlarge": Instance(1, "A10G", 24, 16, nvme=True),
    "ml.g5.2xlarge": Instance(1, "A10G", 24, 32, nvme=True),
    "ml.g5.4xlarge": Instance(1, "A10G", 24, 64, nvme=True),
    "ml.g5.8xlarge": Instance(1, "A10G", 24, 128, nvme=True),
    "ml.g5.16xlarge": Instance(1, "A10G", 24, 256, nvme=True),
    "ml.g5.12xlarge": Instance(4, "A10G", 24, 192, nvme=True),
    "ml.g5.24xlarge": Instance(4, "A10G", 24, 384, nvme=True),
    "ml.g5.48xlarge": Instance(8, "A10G", 24, 768, nvme=True),
    "ml.g6.xlarge": Instance(1, "L4", 24, 16, nvme=True),
    "ml.g6.2xlarge": Instance(1, "L4", 24, 32, nvme=True),
    "ml.g6.4xlarge": Instance(1, "L4", 24, 64, nvme=True),
    "ml.g6.8xlarge": Instance(1, "L4", 24, 128, nvme=True),
    "ml.g6.16xlarge": Instance(1, "L4", 24, 256, nvme=True),
    "ml.g6.12xlarge": Instance(4, "L4", 24, 192, nvme=True),
    "ml.g6.24xlarge": Instance(4, "L4", 24, 384, nvme=True),
    "ml.g6.48xlarge": Instance(8, "L4", 24, 768, nvme=True),
    "ml.g6e.xlarge": Instance(1, "L40S", 48, 32, nvme=True),
    "ml.g6e.2xlarge": Instance(1, "L40S", 48, 64, nvme=True),
    "ml.g6e.4xlarge": Instance(1, "L40S", 48, 128, nvme=True),
    "ml.g6e.8xlarge": Instance(1, "L40S", 48, 256, nvme=True),
    "ml.g6e.16xlarge": Instance(1, "L40S", 48, 512, nvme=True),
    "ml.g6e.12xlarge": Instance(4, "L40S", 48, 384, nvme=True),
    "ml.g6e.24xlarge": Instance(4, "L40S", 48, 768, nvme=True),
    "ml.g6e.48xlarge": Instance(8, "L40S", 48, 1536, nvme=True),
    "ml.g7.2xlarge": Instance(1, "RTX PRO 4500", 32, 32, nvme=True),
    "ml.g7.4xlarge": Instance(1, "RTX PRO 4500", 32, 64, nvme=True),
    "ml.g7.8xlarge": Instance(1, "RTX PRO 4500", 32, 128, nvme=True),
    "ml.g7.12xlarge": Instance(2, "RTX PRO 4500", 32, 192, nvme=True),
    "ml.g7.24xlarge": Instance(4, "RTX PRO 4500", 32, 384, nvme=True),
    "ml.g7.48xlarge": Instance(8, "RTX PRO 4500", 32, 768, nvme=True),
    "ml.g7e.2xlarge": Instance(1, "RTX PRO 6000", 96, 64, nvme=True),
    "ml.g7e.4xlarge": Instance(1, "RTX PRO 6000", 96, 128, nvme=True),
    "ml.g7e.8xlarge": Instance(1, "RTX PRO 6000", 96, 256, nvme=True),
    "ml.g7e.12xlarge": Instance(2, "RTX PRO 6000", 96, 512, nvme=True),
    "ml.g7e.24xlarge": Instance(4, "RTX PRO 6000", 96, 1024, nvme=True),
    "ml.g7e.48xlarge": Instance(8, "RTX PRO 6000", 96, 2048, nvme=True),
    "ml.p2.xlarge": Instance(1, "K80", 12, 61, useless=NO_CUDA),
    "ml.p2.8xlarge": Instance(8, "K80", 12, 488, useless=NO_CUDA),
    "ml.p2.16xlarge": Instance(16, "K80", 12, 732, useless=NO_CUDA),
    "ml.p3.2xlarge": Instance(1, "V100", 16, 61),
    "ml.p3.8xlarge": Instance(4, "V100", 16, 244),
    "ml.p3.16xlarge": Instance(8, "V100", 16, 488),
    "ml.p3dn.24xlarge": Instance(8, "V100", 32, 768, nvme=True),
    "ml.p4d.24xlarge": Instance(8, "A100", 40, 1152, nvme=True),
    "ml.p4de.24xlarge": Instance(8, "A100", 80, 1152, nvme=True),
    "ml.p5.4xlarge": Instance(1, "H100", 80, 256, nvme=True),
    "ml.p5.48xlarge": Instance(8, "H100", 80, 2048, nvme=True),
    "ml.p5e.48xlarge": Instance(8, "H200", 141, 2048, nvme=True),
    "ml.p5en.48xlarge": Instance(8, "H200", 141, 2048, nvme=True),
    "ml.p6-b200.48xlarge": Instance(8, "B200", 179, 2048, nvme=True),
    "ml.p6-b300.48xlarge": Instance(8, "B300", 268, 4096, nvme=True),
    "ml.p6e-gb200.36xlarge": Instance(4, "GB200", 185, 960, nvme=True, useless=ARM),
}


def find_instance(name: str) -> Instance | None:
    """What is known of an instance type; None for a type this table does not list."""
    return INSTANCES.get(name)


def find_single(like: Instance) -> str:
    """The smallest type with one of the same GPU, or ""."""
    single = {name: other for name, other in INSTANCES.items() if other.gpus == 1 and not other.useless}
    same = [
        name for name, other in single.items() if (other.gpu, other.gpu_memory_gb) == (like.gpu, like.gpu_memory_gb)
    ]
    return min(same, key=lambda name: single[name].memory_gb, default="")
