"""Rendering of chats to token ids and label spans, shared by training and evaluation."""
