"""Adapters to other libraries, installed as `wdpurify.integrations`; each file imports torch, wdpurify and one library."""
