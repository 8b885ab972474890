#!/usr/bin/env bash
# Makes an authority and a certificate signed by it, to try TLS out.
#   deploy/certificates.sh FOLDER NAME ...   for hosts and addresses, such as
#                                            localhost 127.0.0.1; made anew if
#                                            the authority is there already
#   deploy/certificates.sh --client FOLDER NAME   for a caller of that name
# FOLDER gets ca.crt, ca.key, tls.crt, tls.key; with --client NAME.crt, NAME.key.
. "$(dirname "$0")/common.sh"

client=false
case ${1:-} in
  -h | --help) sed -n '2,7s/^# \?//p' "$0"; exit 0 ;;
  --client) client=true; shift ;;
esac
[ $# -gt 1 ] || die "needs a folder and names; see --help"
command -v openssl >/dev/null || die "needs openssl: apt-get install openssl"
folder=$1
shift
mkdir -p "$folder"
cd "$folder"
umask 077
if [ ! -e ca.key ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj "/CN=Nearline trial authority" -keyout ca.key -out ca.crt 2>/dev/null
fi
names=
for name in "$@"; do
  case $name in
    *:*:* | *[0-9].*[0-9].*[0-9].*[0-9]) names+=,IP:$name ;;
    *://*) names+=,URI:$name ;;
    *) names+=,DNS:$name ;;
  esac
done
file=tls
! $client || file=$1
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" \
  -keyout "$file.key.new" -out "$file.csr" 2>/dev/null
openssl x509 -req -in "$file.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 \
  -extfile <(echo "subjectAltName=${names#,}") -out "$file.crt.new" 2>/dev/null
rm "$file.csr"
mv "$file.key.new" "$file.key"
mv "$file.crt.new" "$file.crt"
note "$(pwd)/$file.crt for $*, signed by ca.crt"
