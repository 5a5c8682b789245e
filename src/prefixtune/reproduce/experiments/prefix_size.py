"""How many numbers each way of adapting trains, and how many are left to store."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce.experiment import Arm, Cell, Counted, Experiment


def arms(cell: Cell) -> Sequence[Arm]:
    return (
        *(Counted(name=f"Prefix {P}", kind="prefix_tuning", options={"length": P}) for P in (1, 5, 10, 20, 100)),
        Counted(name="P-Tuning v2 10", kind="p_tuning_v2", options={"length": 10}),
        Counted(name="APT 10", kind="adaptive", options={"length": 10}),
        Counted(name="Adapter 3 %", kind="adapter", options={"percent": 3.0}),
        Counted(name="Adapter 0.1 %", kind="adapter", options={"percent": 0.1}),
        Counted(name="LoRA 0.1 %", kind="lora", options={"percent": 0.1}),
        Counted(name="Embedding only 10", kind="prompt_tuning", options={"length": 10}),
        Counted(name="FT-top2", kind="ft_top"),
        Counted(name="FT", kind="full"),
    )


EXPERIMENT = Experiment(
    paper="Prefix-Tuning, section 4.3 and appendix",
    shows="The MLP makes training large and is dropped: what is stored is 0.1 %. No data, no training",
    corpora=(),
    arms=arms,
    seeds=1,
    notes="The paper's prefix of length 10 on GPT-2 medium stores 491,520 numbers.",
)
