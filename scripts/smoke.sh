#!/bin/sh
# Smoke test of a running service: scripts/smoke.sh http://localhost:8080
#
# Where the answer to request-link holds the link (development), the whole journey; elsewhere (production) health
# and request-link. Exit status: 0 when all passed. SMOKE_EMAIL: who gets the mail.
set -u

url=${1:?usage: scripts/smoke.sh URL}
url=${url%/}
email=${SMOKE_EMAIL:-smoke@example.com}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# call NAME STATUS METHOD PATH [BODY]: the answer's body is left in $work/body
call() {
  name=$1 want=$2 method=$3 path=$4
  if [ $# -gt 4 ]; then
    set -- --header 'Content-Type: application/json' --data "$5"
  else
    set --
  fi
  got=$(curl --silent --max-time 15 --request "$method" --cookie "$work/cookies" --cookie-jar "$work/cookies" \
    --output "$work/body" --write-out '%{http_code}' "$@" "$url$path")
  if [ "$got" = "$want" ]; then
    echo "PASS  $name"
  else
    echo "FAIL  $name: $method $path answered $got, not $want: $(head -c 300 "$work/body" 2>/dev/null)"
    failed=1
  fi
}

call 'the process is alive' 200 GET /v1/health
call 'it can work' 200 GET /v1/health/ready
call 'an unknown address is 404' 404 GET /v1/there-is-nothing-here
call 'nobody is signed in' 401 GET /v1/auth/session
call 'a link is sent' 200 POST /v1/auth/request-link "{\"email\":\"$email\"}"

token=$(sed -n 's/.*[?&]token=\([^"]*\)".*/\1/p' "$work/body")
if [ -n "$token" ]; then
  session="smoke-$(date +%s)-$$"
  hash=2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
  call 'the link signs in' 200 POST /v1/auth/verify "{\"token\":\"$token\"}"
  call 'and only once' 401 POST /v1/auth/verify "{\"token\":\"$token\"}"
  call 'the cookie is good' 200 GET /v1/auth/session
  call 'a session starts' 200 POST /v1/sessions/start "{\"session_id\":\"$session\"}"
  call 'and ends' 200 POST /v1/sessions/end "{\"session_id\":\"$session\",\"transcript_hash\":\"$hash\"}"
  call 'and is listed' 200 GET '/v1/sessions?limit=1'
  call 'the account is exported' 200 GET /v1/account
  call 'sign-out' 200 POST /v1/auth/logout
  call 'after which the cookie is worth nothing' 401 GET /v1/auth/session
elif [ "$got" = 200 ]; then
  echo "----  the link went by mail, so the journey ends here"
fi

[ $failed = 0 ] && echo "all passed"
exit $failed
