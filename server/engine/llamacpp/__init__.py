"""llama.cpp through llama-cpp-python's low-level bindings: the only folder that fills its C structures.

Nothing here is safe to use from two threads at once, except :meth:`Model.tokenize`, :meth:`Model.text`,
:meth:`Model.piece`, :meth:`Context.abort` and :meth:`EmbeddingContext.abort`.
"""
