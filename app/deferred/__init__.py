"""Requests that may wait up to a day, answered through OpenAI's Batch API at half the price.

A request with the header `x-prodkit-deadline` is kept, answered with 202 and an id, and named in a message of the
worker's queue (accept, requests). The worker gathers requests for the same model and endpoint into a job (gather),
brings it through the Batch API a step at a time (runner, steps, batch_api) and files each answer (results).
"""
