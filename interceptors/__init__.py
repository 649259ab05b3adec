"""gRPC interceptors: a leaf library that knows RPC shapes and nothing of any service.

An interceptor has one concern, gets its policy as callables, and works alike for all four RPC shapes.
"""
