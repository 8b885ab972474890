# LibTorch out of PyPI's wheel of torch, which brings CUDA, instead of Debian's:
#   pip install --target DIR torch==2.8.0
#   cmake ... -DNEARLINE_TORCH_WHEEL=DIR
# The wheel's own CMake files ask for a CUDA compiler, which nothing here needs.
# Defines TORCH_INCLUDE_DIRS and TORCH_LIBRARIES as find_package(Torch) does.
set(torch "${NEARLINE_TORCH_WHEEL}/torch")
if(NOT EXISTS "${torch}/version.py")
  message(FATAL_ERROR "NEARLINE_TORCH_WHEEL: ${NEARLINE_TORCH_WHEEL} holds no "
                      "torch; fill it by pip install --target")
endif()
file(STRINGS "${torch}/version.py" version REGEX "^__version__ = ")
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" version "${version}")
# Before 2.7 wheels were built for the C++ library's old ABI.
if(version VERSION_LESS 2.7)
  message(FATAL_ERROR "NEARLINE_TORCH_WHEEL: torch ${version} has the old C++ "
                      "ABI; 2.7 or later is needed")
endif()
message(STATUS "LibTorch ${version} of ${torch}")

set(TORCH_INCLUDE_DIRS
  "${torch}/include" "${torch}/include/torch/csrc/api/include")
set(TORCH_LIBRARIES "${torch}/lib/libtorch.so" "${torch}/lib/libtorch_cpu.so"
  "${torch}/lib/libc10.so")
# Beside an installed program's folder lies the wheel's lib, with nvidia's.
set(CMAKE_SKIP_INSTALL_RPATH OFF)
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib/nearline/torch/lib")
# CUDA's libraries are found by the run path of those that ask for them.
add_link_options(LINKER:--unresolved-symbols=ignore-in-shared-libs)
