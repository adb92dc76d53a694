#!/bin/sh
# What the tests need of the system, above all the libraries with which Qt and VTK draw without a display: install what
# is missing, or say what to install.
set -eu
[ "$(uname -s)" = Linux ] || exit 0

# A browser, with which a slow test looks at the page of --page; without one it is left out.
browser=""
for name in chromium-headless-shell chromium google-chrome; do
  command -v "$name" >/dev/null && browser="$name"
done
if [ -z "$browser" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium-headless-shell || true
fi

packages="libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri libxkbcommon0 libfontconfig1 libdbus-1-3 libglib2.0-0 fonts-dejavu-core"
missing=""
for library in libEGL.so.1 libGL.so.1 libxkbcommon.so.0 libfontconfig.so.1 libdbus-1.so.3 libglib-2.0.so.0; do
  ldconfig -p | grep -q "$library" || missing="$missing $library"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq
  # shellcheck disable=SC2086 # a list of packages
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages
else
  echo "The tests of the panel need$missing; on Debian and Ubuntu: sudo apt-get install $packages" >&2
  exit 1
fi
