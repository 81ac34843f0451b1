"""Tasks that come with the plugin; lmms-eval looks for this package in each plugin and reads the YAML files in it."""
