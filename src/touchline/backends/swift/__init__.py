"""ms-swift (ModelScope SWIFT): what it prints and writes, and its arguments, read only."""
