"""Thin adapters to other libraries, shipped as `wdpurify.integrations`; each file imports torch, wdpurify and one library."""
