#!/bin/sh
# What the tests need of the system, above all the libraries with which Qt and VTK draw without a display, and the SSH
# server that the tests of `--remote` start for themselves: install what is missing, or say what to install.
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
PATH="$PATH:/usr/sbin"
server=""
command -v sshd >/dev/null && command -v ssh >/dev/null || server="openssh-server openssh-client"
[ -n "$missing$server" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  if [ ! -e /usr/sbin/policy-rc.d ]; then # which the installation asks whether to start a server for everybody
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
  fi
  apt-get update -qq
  # shellcheck disable=SC2086 # lists of packages
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages $server
  if [ -n "$server" ] && command -v systemctl >/dev/null; then
    systemctl disable -q ssh || true # nor when the computer starts
  fi
elif [ -n "$missing" ]; then
  echo "The tests of the panel need$missing; on Debian and Ubuntu: sudo apt-get install $packages" >&2
  exit 1
else
  echo "The tests of --remote are skipped; on Debian and Ubuntu: sudo apt-get install $server" >&2
fi
