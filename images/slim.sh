#!/bin/sh
# Takes out of a venv what no step uses: tests of the large packages, torch's test programs and, without CUDA, its headers
# (only torch.compile reads them). About 230 MB.
set -eu
cd "$1"/lib/python3*/site-packages
find pandas scipy sympy networkx -type d -name tests -prune -exec rm -r {} +
rm -rf torch/test torch/bin/*Test torch/bin/test_* torch/bin/protoc*
[ -d nvidia ] || rm -rf torch/include
