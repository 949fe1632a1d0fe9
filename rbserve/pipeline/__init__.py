"""The steps, in their order: each makes what is missing upstream, and says on standard error what it makes.

Imports every room but `bench` and `cli`. Heavy imports wait inside the step that needs them, so that serving an
existing artefact loads none of them.
"""
