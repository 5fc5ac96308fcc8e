"""LoRA: adapt a frozen network with low-rank updates. Built in lesson 04.

    names = lora.inject(model, ["blocks.*.attention.query", "blocks.*.attention.value"], rank=4, alpha=8)
    lora.merge(model)                             # as fast as the base; lora.unmerge(model) undoes it to the last bit
    small = lora.adapter_state_dict(model)        # the adapter alone
    lora.inject(model, rank=4, name="task_2")     # a second one beside it; lora.use(model, "default") switches back
    lora.fold(model)                              # a plain network again, the update in its weights

`LoRA` is the method for a `Learner`.
"""

from __future__ import annotations

from course_utils.lora.layer import LoRALayer, adapter_cost, full_rank
from course_utils.lora.memory import TrainingMemory, training_memory
from course_utils.lora.method import LoRA
from course_utils.lora.model import (
    ParameterCount,
    absorb,
    adapted,
    adapter_state_dict,
    adapters,
    candidates,
    count_parameters,
    fold,
    in_use,
    inject,
    keep_apart,
    load_adapter_state_dict,
    matching,
    merge,
    remove,
    unmerge,
    use,
)
from course_utils.lora.pretraining import load_base, pretrained_base, resized
from course_utils.lora.ranks import allocate_ranks, directions, full_ranks, layer_gradients, sensitivity, task_rank
from course_utils.lora.serving import Tenants, answer_as, by_tenant, mixed_update

__all__ = [
    "LoRA",
    "LoRALayer",
    "ParameterCount",
    "Tenants",
    "TrainingMemory",
    "absorb",
    "adapted",
    "adapter_cost",
    "adapter_state_dict",
    "adapters",
    "allocate_ranks",
    "answer_as",
    "by_tenant",
    "candidates",
    "count_parameters",
    "directions",
    "fold",
    "full_rank",
    "full_ranks",
    "in_use",
    "inject",
    "keep_apart",
    "layer_gradients",
    "load_adapter_state_dict",
    "load_base",
    "matching",
    "merge",
    "mixed_update",
    "pretrained_base",
    "remove",
    "resized",
    "sensitivity",
    "task_rank",
    "training_memory",
    "unmerge",
    "use",
]
