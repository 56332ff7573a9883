"""The engine: one process, one device. Knows nothing of HTTP, databases or tenants; imports nothing by itself."""
