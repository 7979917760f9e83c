"""How facts become numbers: conventions by name, each with the source of its rules."""

from frenzy.accounting.conventions.base import TASKS, Convention
from frenzy.accounting.conventions.energy import ENERGY, ENERGY_MEMORY
from frenzy.accounting.conventions.frenzy import FRENZY
from frenzy.accounting.conventions.macs import IRNET_TABLE4, MACS
from frenzy.accounting.conventions.micronet import BASELINE, BASELINE_BN, MICRONET, PACKED, SIGNS, TREE
from frenzy.accounting.conventions.tools import FVCORE, THOP, THOP_0_1_1, TORCHINFO, TORCHSTAT

CONVENTIONS: dict[str, Convention] = {
    convention.name: convention
    for convention in (
        FRENZY,
        MICRONET,
        MACS,
        TORCHSTAT,
        THOP,
        IRNET_TABLE4,
        BASELINE,
        BASELINE_BN,
        SIGNS,
        TREE,
        PACKED,
        THOP_0_1_1,
        FVCORE,
        TORCHINFO,
        ENERGY,
        ENERGY_MEMORY,
    )
}

__all__ = ["CONVENTIONS", "TASKS", "Convention"]
