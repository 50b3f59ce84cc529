# Read by CMake right after the project() line of llama-cpp-python. A plain variable hides the cache entry of the same
# name, which that project forces to ON: libllama-common (the C++ chat parsers, argument parser, downloader) is more than
# half of the compile time, and the bindings do not load it.
set(LLAMA_BUILD_COMMON OFF)
