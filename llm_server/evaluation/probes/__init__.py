"""Object-level probes made from any annotation in COCO's format: is it there, how many, where, what is this.

`coco` reads the annotation, `questions` and `pope` make questions of it, `answers` scores what is said, and
`perfect_reader` says what the experts' own output would have allowed a reader without fault to score.
"""
