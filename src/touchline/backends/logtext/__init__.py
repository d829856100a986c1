"""The grammar that all logs share: progress bars, dictionary lines, time stamps, numbers as people write them."""
