# What every target shares: language, warnings, sanitizers, output folders, and
# the packages that the folders link by name.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
# Only our own folders are searched for run-time libraries, never the build's.
set(CMAKE_SKIP_INSTALL_RPATH ON)

if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  message(FATAL_ERROR "Nearline is built with g++: clang cannot parse "
                      "LibTorch's headers as C++20. Set CXX=g++.")
endif()

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE}")
  add_compile_options(-fpch-preprocess)  # else it keeps nothing that uses one
endif()

add_library(nearline_flags INTERFACE)
target_include_directories(nearline_flags INTERFACE
  "${CMAKE_SOURCE_DIR}" "${CMAKE_BINARY_DIR}")
# g++ 12 warns of std::string::insert without cause (PR 105651), and of designated
# initializers that leave the defaults alone.
target_compile_options(nearline_flags INTERFACE -Wall -Wextra -Werror
  -Wno-restrict -Wno-missing-field-initializers)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  # The oldest processor a released binary runs on. Faster code is chosen at run
  # time by oneDNN and Highway.
  add_compile_options(-march=x86-64-v2 -mtune=generic)
endif()
if(NEARLINE_SANITIZE)
  add_compile_options(-fsanitize=${NEARLINE_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${NEARLINE_SANITIZE})
endif()

find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(absl REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(OpenMP REQUIRED)
# Packaged without usable CMake or pkg-config files (dnnl's asks for OpenCL).
foreach(name dnnl hwy hwy_contrib jemalloc roaring rocksdb cpp-httplib)
  string(MAKE_C_IDENTIFIER "${name}" upper)
  string(TOUPPER "${upper}" upper)
  find_library(${upper}_LIBRARY ${name} REQUIRED)
endforeach()
if(NEARLINE_TORCH_WHEEL)
  include(TorchWheel)
elseif(NEARLINE_TORCH)
  find_package(Torch REQUIRED)
endif()

# nearline_library(NAME SOURCES a.cc b.h ... DEPS x y): a folder's library.
function(nearline_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC
    "$<BUILD_INTERFACE:nearline_flags>" ${ARG_DEPS})
endfunction()

# nearline_export(NAME AS): other projects link the library as nearline::AS.
function(nearline_export name as)
  set_target_properties(${name} PROPERTIES EXPORT_NAME ${as})
  install(TARGETS ${name} EXPORT nearline
    ARCHIVE DESTINATION lib COMPONENT development)
endfunction()

# nearline_binary(NAME SOURCES ... DEPS ...): an installed program.
function(nearline_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE nearline_flags ${ARG_DEPS})
  install(TARGETS ${name} RUNTIME DESTINATION bin COMPONENT runtime)
endfunction()
