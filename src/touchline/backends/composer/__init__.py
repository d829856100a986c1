"""Composer and llm-foundry (MosaicML)."""
