"""CoLLaVO's two ablations (arXiv 2402.11248, tables 2 and 3) at the size that fits the machine.

`crayon`: no crayon prompt, classes alone, classes and numbers; asked what can be read off the map, without words.
`adapters`: vision-language tasks alone, one adapter for all tasks, one adapter for each kind of task.
"""
