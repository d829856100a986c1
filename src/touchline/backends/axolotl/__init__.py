"""axolotl: what it prints and its configs, read only."""
