"""The computers that the emulator stands for, and what their kernel would say of them."""

import os
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Board:
    """A Raspberry Pi. qemu_cpu: QEMU's name of its processor. features: what its kernel lists. part, variant, revision: of the
    processor's main ID register, as in /proc/cpuinfo.
    """

    name: str
    model: str
    qemu_cpu: str
    features: str
    part: str
    variant: str
    revision: int

    @property
    def has_dot_product(self) -> bool:
        return "asimddp" in self.features.split()

    def kernel_files(self) -> dict[str, str]:
        """Contents by path. In user mode QEMU shows the host's /proc/cpuinfo, from which LiteRT's XNNPACK learns nothing: it
        would crash, or leave the network to slower kernels. As many cores as the host has, which /sys tells of.
        """
        core = "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        core += "CPU variant\t: {}\nCPU part\t: {}\nCPU revision\t: {}\n\n"
        cores = (
            core.format(n, self.features, self.variant, self.part, self.revision) for n in range(os.cpu_count() or 1)
        )
        return {
            "/proc/cpuinfo": "".join(cores) + f"Model\t\t: {self.model}\n",
            "/sys/firmware/devicetree/base/model": f"{self.model}\0",
        }


_PI5_FEATURES: Final = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)
PI4: Final = Board(
    "pi4", "Raspberry Pi 4 Model B Rev 1.5", "cortex-a72", "fp asimd evtstrm crc32 cpuid", "0xd08", "0x0", 3
)
PI5: Final = Board("pi5", "Raspberry Pi 5 Model B Rev 1.0", "cortex-a76", _PI5_FEATURES, "0xd0b", "0x4", 1)
BOARDS: Final = (PI4, PI5)
