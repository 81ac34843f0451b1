"""CoLLaVO and MoAI themselves: InternLM2 with partial LoRA, a CLIP tower, the crayon prompt, compressor and mixers.

Modules carry the attribute names of the released checkpoints where that names a tensor (`Plora_main`,
`moai_compressor`), so that a checkpoint's keys are the module tree. Nothing here reads a request or a wire message.
"""
