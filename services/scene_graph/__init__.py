"""The scene-graph expert: which object stands in which relation to which."""
