# Everything from a fresh checkout with python3 and a C++ compiler: make demo, make test.
#
#   make demo      install into .venv, then run the demonstration
#   make test      install, then the quick tests in Python (once more without native code) and C++
#   make test-all  the same with the slow tests, and the C++ tests under sanitizers, valgrind and qemu
#   make lint      ruff, formatting, types
#   make format    formats the Python code
#   make clean     removes builds and caches; the environment stays (make distclean takes it too)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
TOOLS := $(VENV)/.stamp-tools
READY := $(VENV)/.stamp-ready
NATIVE := $(VENV)/.stamp-native
SOURCES := CMakeLists.txt $(shell find csrc -type f)

# cmake and ninja of the environment are found by every command below.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-python test-native-off test-cpp test-sanitize test-valgrind test-neon test-hostile test-cuda test-rtx tensorrt-plugins fuzz test-all lint format clean distclean install
.DEFAULT_GOAL := test

demo: $(NATIVE)
	$(BIN)/python examples/demo.py

test: SELECT := -m "not slow"
test: test-python test-native-off test-cpp

test-all: SELECT :=
test-all: HOSTILE_RUNS := 30000
test-all: HOSTILE_ROUNDS := 1500
test-all: test-python test-native-off test-cpp test-sanitize test-hostile test-valgrind test-neon test-cuda test-rtx

test-python: $(NATIVE)
	$(BIN)/python -m pytest $(SELECT)

# The definitions in torch alone: the native module may be faster, never different.
test-native-off: $(NATIVE)
	BITCOMPRESS_NATIVE=off $(BIN)/python -m pytest $(SELECT) tests/packed

test-cpp: $(TOOLS)
	cmake -S . -B build/cpp -G Ninja -DBITCOMPRESS_PYTHON=OFF -DBITCOMPRESS_TESTS=ON
	cmake --build build/cpp
	ctest --test-dir build/cpp --output-on-failure

# Address and undefined-behaviour sanitizers, checked containers.
test-sanitize: $(TOOLS)
	cmake -S . -B build/sanitize -G Ninja -DBITCOMPRESS_PYTHON=OFF -DBITCOMPRESS_TESTS=ON \
	  -DBITCOMPRESS_SANITIZE=ON
	cmake --build build/sanitize
	ctest --test-dir build/sanitize --output-on-failure

# Damaged files with the sanitizers on: ONNX files in ONNX Runtime with the operator library, packed folders in
# Python with the native module. Both from seed 1, so that a failure comes again.
HOSTILE_RUNS := 2000
HOSTILE_ROUNDS := 120
HOSTILE_SEED := 1
ASAN := abort_on_error=1:handle_abort=0:handle_segv=0:allocator_may_return_null=1:max_allocation_size_mb=256:alloc_dealloc_mismatch=0
HOSTILE_ENV := UBSAN_OPTIONS=abort_on_error=1:print_stacktrace=1
RUNTIME = $(shell $(BIN)/python -c "import onnxruntime, pathlib as p; print(next((p.Path(onnxruntime.__file__).parent / 'capi').glob('libonnxruntime.so*')))" 2>/dev/null)
ORT_ENV = ASAN_OPTIONS=$(ASAN) BITCOMPRESS_ORT_RUNTIME=$(RUNTIME) BITCOMPRESS_ORT_LIBRARY=build/sanitize/libbitcompress_ort.so
test-hostile: $(READY)
	cmake -S . -B build/sanitize -G Ninja -DBITCOMPRESS_PYTHON=ON -DBITCOMPRESS_TESTS=ON -DBITCOMPRESS_SANITIZE=ON \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	cmake --build build/sanitize --target fuzz_onnx bitcompress_ort _native
	@if test -z "$(RUNTIME)"; then echo "skipped: ONNX files, for onnxruntime is not in $(VENV)"; else \
	  echo "==> ONNX files" && $(HOSTILE_ENV) $(ORT_ENV) \
	    build/sanitize/fuzz_onnx -seed=$(HOSTILE_SEED) -runs=$(HOSTILE_RUNS) tests/fuzz/onnx; \
	fi
	@if ! test -e "$$($(CXX) -print-file-name=libasan.so)"; then \
	  echo "skipped: packed folders, for $(CXX) has no libasan.so to load before Python"; \
	else \
	  echo "==> packed folders" && $(HOSTILE_ENV) ASAN_OPTIONS=$(ASAN):detect_leaks=0 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	    $(BIN)/python tests/fuzz/fuzz_reader.py --native $$(ls build/sanitize/_native*.so) --at build/sanitize/seed \
	      --seed $(HOSTILE_SEED) --rounds $(HOSTILE_ROUNDS) \
	  || { echo "failed in round --seed $$(cat build/sanitize/seed)"; exit 1; }; \
	fi

# Threads of the pool live until the process ends: what they hold is "possibly lost" and no error.
VALGRIND := BITCOMPRESS_TEST_SMALL=1 valgrind --quiet --error-exitcode=9 --leak-check=full \
  --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect
test-valgrind: test-cpp
	@command -v valgrind >/dev/null || echo "skipped: valgrind is not installed"
	@! command -v valgrind >/dev/null || for level in scalar avx2; do \
	  for program in build/cpp/test_*; do \
	    echo "==> $$program at level $$level" && BITCOMPRESS_ISA=$$level $(VALGRIND) $$program || exit 1; \
	  done; \
	done && $(VALGRIND) build/cpp/fuzz_shapes -runs=2000

# The NEON level under qemu, once with dot products and once without.
test-neon: $(TOOLS)
	@if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null; then \
	  echo "skipped: the packages g++-aarch64-linux-gnu and qemu-user are not installed"; \
	else \
	  cmake -S . -B build/neon -G Ninja -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake \
	    -DBITCOMPRESS_PYTHON=OFF -DBITCOMPRESS_TESTS=ON && cmake --build build/neon && \
	  for cpu in max cortex-a57; do \
	    echo "==> $$cpu" && QEMU_CPU=$$cpu BITCOMPRESS_TEST_SMALL=1 \
	      ctest --test-dir build/neon --output-on-failure || exit 1; \
	  done; \
	fi

# The CUDA kernels and the plugins of TensorRT: compiled, linked, and driven as far as the machine goes.
# nvcc and the headers come from PyPI, into a folder of their own.
CUDA_ARCHITECTURES := 80;90;120
CUDA_PACKAGES := 'nvidia-cuda-nvcc~=13.0' 'nvidia-cuda-crt~=13.0' 'nvidia-nvvm~=13.0' \
  'nvidia-cuda-runtime~=13.0' 'nvidia-cuda-cccl~=13.0'
TENSORRT_INCLUDE := $(CURDIR)/build/cuda/headers/kernel_lens/include/tensorrt
CUDA_FLAGS = -DBITCOMPRESS_PYTHON=OFF -DBITCOMPRESS_CUDA=ON -DBITCOMPRESS_TENSORRT=ON \
  -DBITCOMPRESS_CUDA_ROOT=$(CURDIR)/build/cuda/toolkit/nvidia/cu13 \
  -DBITCOMPRESS_TENSORRT_INCLUDE=$(TENSORRT_INCLUDE) "-DBITCOMPRESS_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)"
GET_CUDA = test -e build/cuda/.stamp || { mkdir -p build/cuda && \
  $(PIP) install --quiet --upgrade --target build/cuda/toolkit $(CUDA_PACKAGES) && \
  $(PIP) install --quiet --upgrade --no-deps --target build/cuda/headers kernel-lens==2.0.1 && touch build/cuda/.stamp; }
test-cuda: $(TOOLS)
	@if ! { $(GET_CUDA); }; then \
	  echo "skipped: nvcc 13 or the headers of TensorRT cannot be had from PyPI here"; \
	else \
	  cmake -S . -B build/cuda/tests -G Ninja $(CUDA_FLAGS) -DBITCOMPRESS_TESTS=ON && \
	  cmake --build build/cuda/tests --target test_cuda test_cuda_pictures test_tensorrt bitcompress_cuda bitcompress_tensorrt \
	    bitcompress_tensorrt_twin && \
	  ctest --test-dir build/cuda/tests --output-on-failure --verbose -R 'cuda|tensorrt'; \
	fi

# TensorRT for RTX lists the creators and makes plugins without a GPU, where its wheels can be had.
test-rtx: test-cuda $(READY)
	@if ! test -e build/cuda/tests/libbitcompress_tensorrt.so || ! { test -e build/cuda/.stamp-rtx || { \
	  $(PIP) install --quiet --upgrade --no-deps --target build/cuda/rtx tensorrt_rtx_cu13_libs \
	    tensorrt_rtx_cu13_bindings && touch build/cuda/.stamp-rtx; }; }; then \
	  echo "skipped: the plugins are not built, or TensorRT for RTX cannot be had from PyPI here"; \
	else \
	  BITCOMPRESS_RTX=$(CURDIR)/build/cuda/rtx \
	  BITCOMPRESS_TENSORRT_PLUGINS=$(CURDIR)/build/cuda/tests/libbitcompress_tensorrt.so \
	    $(BIN)/python -m pytest tests/backends/test_tensorrt_rtx.py; \
	fi

# Both libraries, into the package; TENSORRT_INCLUDE=/path/to/TensorRT/include for another version of it.
tensorrt-plugins: $(TOOLS)
	$(GET_CUDA)
	cmake -S . -B build/cuda/libraries -G Ninja $(CUDA_FLAGS)
	cmake --build build/cuda/libraries --target bitcompress_cuda bitcompress_tensorrt
	cp build/cuda/libraries/libbitcompress_cuda.so build/cuda/libraries/libbitcompress_tensorrt.so bitcompress/

# Random calls of the C interface for SECONDS, by libFuzzer where clang is installed; then damaged files.
SECONDS := 60
fuzz: $(NATIVE) test-hostile
	if command -v clang++ >/dev/null; then \
	  cmake -S . -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DBITCOMPRESS_PYTHON=OFF \
	    -DBITCOMPRESS_TESTS=ON -DBITCOMPRESS_SANITIZE=ON -DBITCOMPRESS_FUZZER=ON && \
	  cmake --build build/fuzz --target fuzz_shapes && mkdir -p build/fuzz/found && \
	  build/fuzz/fuzz_shapes -max_total_time=$(SECONDS) -max_len=400 -len_control=0 \
	    -artifact_prefix=build/fuzz/ build/fuzz/found tests/fuzz/corpus; \
	else \
	  cmake -S . -B build/sanitize -G Ninja -DBITCOMPRESS_PYTHON=OFF -DBITCOMPRESS_TESTS=ON \
	    -DBITCOMPRESS_SANITIZE=ON && cmake --build build/sanitize --target fuzz_shapes && \
	  build/sanitize/fuzz_shapes -seconds=$(SECONDS) tests/fuzz/corpus; \
	fi
	test -z "$(RUNTIME)" || $(HOSTILE_ENV) $(ORT_ENV) build/sanitize/fuzz_onnx -seconds=$(SECONDS) \
	  -seed=$$(date +%s) tests/fuzz/onnx
	$(BIN)/python tests/fuzz/fuzz_reader.py --seconds $(SECONDS)

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(READY)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

install: $(NATIVE)

# The environment and what builds the native module.
$(TOOLS): constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) scikit-build-core nanobind
	command -v cmake >/dev/null || $(INSTALL) cmake
	command -v ninja >/dev/null || $(INSTALL) ninja
	touch $@

# All packages, and bitcompress itself as an editable install.
$(READY): $(TOOLS) pyproject.toml
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	touch $@ $(NATIVE)

# Only the native module anew.
$(NATIVE): $(READY) $(SOURCES)
	$(INSTALL) --no-build-isolation --no-deps --editable .
	touch $@

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
