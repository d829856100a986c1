"""Rules of `touchline check`: one pure function per code, on views of experiments, configs, scripts and data."""
