"""The setup_finetune.yaml of cruijff_kit: flat settings of a run, from which its script writes torchtune's files."""
