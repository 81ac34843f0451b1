"""Mask2Former and its kin: class logits and mask logits of queries in, a panoptic partition out. No torch."""
