"""The GPU types that a user can ask for, and how a node shows that it has one."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class GPUType(StrEnum):
    """A GPU model, named as the large clouds name it."""

    NVIDIA_T4 = "nvidia-t4"
    NVIDIA_V100 = "nvidia-v100"
    NVIDIA_V100_32GB = "nvidia-v100-32gb"
    NVIDIA_L4 = "nvidia-l4"
    NVIDIA_A10G = "nvidia-a10g"
    NVIDIA_A10 = "nvidia-a10"
    NVIDIA_A30 = "nvidia-a30"
    NVIDIA_A40 = "nvidia-a40"
    NVIDIA_L20 = "nvidia-l20"
    NVIDIA_L40 = "nvidia-l40"
    NVIDIA_L40S = "nvidia-l40s"
    NVIDIA_RTX_A6000 = "nvidia-rtx-a6000"
    NVIDIA_RTX_6000_ADA = "nvidia-rtx-6000-ada"
    NVIDIA_A100_40GB = "nvidia-a100-40gb"
    NVIDIA_A100_80GB = "nvidia-a100-80gb"
    NVIDIA_H20_96GB = "nvidia-h20-96gb"
    NVIDIA_H100_80GB = "nvidia-h100-80gb"
    NVIDIA_H100_NVL = "nvidia-h100-nvl"
    NVIDIA_H200_141GB = "nvidia-h200-141gb"
    NVIDIA_B200 = "nvidia-b200"


@dataclass(frozen=True, slots=True)
class GPUModel:
    """How one GPU type looks on a node.

    ``products`` are values of the label ``nvidia.com/gpu.product`` (GPU feature discovery),
    ``accelerators`` of ``cloud.google.com/gke-accelerator`` (GKE). ``memory_gib`` is per GPU.
    """

    memory_gib: int
    products: tuple[str, ...]
    accelerators: tuple[str, ...] = ()


GPU_TAINT: Final = "nvidia.com/gpu"
"""The key of the taint that nodes with a GPU of these types carry by custom."""
GPU_TAINTS: Final = (
    GPU_TAINT,
    "amd.com/gpu",
    "habana.ai/gaudi",
    "gpu.intel.com/xe",
    "gpu.intel.com/i915",
)
"""Keys of the taints that nodes with accelerators carry by custom: the resource of their device plugin.

Weights belong on such nodes, so every cache tolerates them, also on a node that joins later and on one whose
device plugin has not registered yet.
"""

LABEL_PRODUCT: Final = "nvidia.com/gpu.product"
LABEL_MEMORY: Final = "nvidia.com/gpu.memory"
"""Memory of one GPU in MiB, by GPU feature discovery."""
LABEL_ACCELERATOR: Final = "cloud.google.com/gke-accelerator"

GPU_MODELS: Final[dict[GPUType, GPUModel]] = {
    GPUType.NVIDIA_T4: GPUModel(16, ("Tesla-T4", "NVIDIA-T4"), ("nvidia-tesla-t4",)),
    GPUType.NVIDIA_V100: GPUModel(
        16, ("Tesla-V100-SXM2-16GB", "Tesla-V100-PCIE-16GB"), ("nvidia-tesla-v100",)
    ),
    GPUType.NVIDIA_V100_32GB: GPUModel(32, ("Tesla-V100-SXM2-32GB", "Tesla-V100-PCIE-32GB")),
    GPUType.NVIDIA_L4: GPUModel(24, ("NVIDIA-L4",), ("nvidia-l4",)),
    GPUType.NVIDIA_A10G: GPUModel(24, ("NVIDIA-A10G",)),
    GPUType.NVIDIA_A10: GPUModel(24, ("NVIDIA-A10",)),
    GPUType.NVIDIA_A30: GPUModel(24, ("NVIDIA-A30",)),
    GPUType.NVIDIA_A40: GPUModel(48, ("NVIDIA-A40",)),
    GPUType.NVIDIA_L20: GPUModel(48, ("NVIDIA-L20",)),
    GPUType.NVIDIA_L40: GPUModel(48, ("NVIDIA-L40",)),
    GPUType.NVIDIA_L40S: GPUModel(48, ("NVIDIA-L40S",)),
    GPUType.NVIDIA_RTX_A6000: GPUModel(48, ("NVIDIA-RTX-A6000",)),
    GPUType.NVIDIA_RTX_6000_ADA: GPUModel(48, ("NVIDIA-RTX-6000-Ada-Generation",)),
    GPUType.NVIDIA_A100_40GB: GPUModel(
        40, ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"), ("nvidia-tesla-a100",)
    ),
    GPUType.NVIDIA_A100_80GB: GPUModel(
        80, ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe"), ("nvidia-a100-80gb",)
    ),
    GPUType.NVIDIA_H20_96GB: GPUModel(96, ("NVIDIA-H20",)),
    GPUType.NVIDIA_H100_80GB: GPUModel(
        80, ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe"), ("nvidia-h100-80gb", "nvidia-h100-mega-80gb")
    ),
    GPUType.NVIDIA_H100_NVL: GPUModel(94, ("NVIDIA-H100-NVL",)),
    GPUType.NVIDIA_H200_141GB: GPUModel(141, ("NVIDIA-H200",), ("nvidia-h200-141gb",)),
    GPUType.NVIDIA_B200: GPUModel(180, ("NVIDIA-B200",), ("nvidia-b200",)),
}
