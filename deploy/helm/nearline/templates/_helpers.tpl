{{/* Names of objects are at most 63 characters long, with room for -headless. */}}
{{- define "nearline.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "nearline.headless" -}}
{{- include "nearline.fullname" . }}-headless
{{- end -}}

{{/* What never changes in a release's life: selectors, claims. */}}
{{- define "nearline.instanceLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nearline.selectorLabels" -}}
{{ include "nearline.instanceLabels" . }}
app.kubernetes.io/component: server
{{- end -}}

{{/* Of every object; each adds its app.kubernetes.io/component. */}}
{{- define "nearline.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "nearline.instanceLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "nearline.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "nearline.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "nearline.image" -}}
{{- include "nearline.reference" (dict "image" .Values.image "appVersion" .Chart.AppVersion) -}}
{{- end -}}

{{- define "nearline.trainerImage" -}}
{{- $image := ternary .Values.trainer.image .Values.image (not (empty .Values.trainer.image.repository)) -}}
{{- include "nearline.reference" (dict "image" $image "appVersion" .Chart.AppVersion) -}}
{{- end -}}

{{- define "nearline.reference" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .appVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Of the server's container and its trainer's. */}}
{{- define "nearline.env" -}}
{{- $own := include "nearline.ownConfig" . | fromYaml -}}
{{- range $key := list "listen" "metrics_listen" "health_listen" "data_dir" "allow_plaintext" }}
- name: NEARLINE_{{ upper $key }}
  value: {{ get $own $key | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "nearline.tlsSecret" -}}
{{- default (printf "%s-tls" (include "nearline.fullname" .)) .Values.tls.secretName -}}
{{- end -}}

{{/* The secret with the callers' file; empty: none. */}}
{{- define "nearline.accessSecret" -}}
{{- if .Values.access.callers -}}
{{- include "nearline.fullname" . }}-access
{{- else -}}
{{- .Values.access.secretName -}}
{{- end -}}
{{- end -}}

{{/* Seconds of a duration such as 90s, 1h30m or 0, as the server reads it. */}}
{{- define "nearline.seconds" -}}
{{- $text := toString . -}}
{{- if not (regexMatch "^(0|([0-9]+([.][0-9]*)?(ns|us|ms|s|m|h))+)$" $text) -}}
{{- fail (printf "config.serving.drain: %q is no duration such as 20s or 1m30s" $text) -}}
{{- end -}}
{{- $units := dict "ns" 1e-9 "us" 1e-6 "ms" 1e-3 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+[a-z]+" $text -1 -}}
{{- $sum = addf $sum (mulf (float64 (regexFind "^[0-9.]+" .)) (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* MiB of a quantity such as 6Gi; empty where it is written another way. */}}
{{- define "nearline.mebibytes" -}}
{{- $text := kindIs "string" . | ternary . (printf "%d" (int64 .)) -}}
{{- $units := dict "" 1.0 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 -}}
{{- if regexMatch "^[0-9]+([.][0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$" $text -}}
{{- divf (mulf (float64 (regexFind "^[0-9.]+" $text)) (get $units (regexFind "[a-zA-Z]*$" $text))) 1048576.0 | floor | int64 -}}
{{- end -}}
{{- end -}}

{{/* What the chart sets in the configuration's top level, which the image sets
     by environment as well. */}}
{{- define "nearline.ownConfig" -}}
listen: 0.0.0.0:50051
metrics_listen: 0.0.0.0:9464
health_listen: 0.0.0.0:50052
data_dir: /var/lib/nearline
allow_plaintext: {{ and .Values.allowPlaintext (not .Values.tls.enabled) }}
{{- end -}}

{{/* The whole nearline.yaml. */}}
{{- define "nearline.config" -}}
{{- $config := deepCopy (default dict .Values.config) -}}
{{- range $path := list "listen" "metrics_listen" "health_listen" "data_dir" "allow_plaintext" "tls.certificate" "tls.key" "tls.client_ca" "access.file" "backup.dir" "training.socket" -}}
{{- $parts := splitList "." $path -}}
{{- $section := $config -}}
{{- if eq (len $parts) 2 -}}
{{- $section = default dict (get $config (first $parts)) -}}
{{- end -}}
{{- if hasKey $section (last $parts) -}}
{{- fail (printf "config.%s is set by the chart; use tls, access, backup, trainer and allowPlaintext, and leave it out of config" $path) -}}
{{- end -}}
{{- end -}}
{{- $_ := mustMergeOverwrite $config (include "nearline.ownConfig" . | fromYaml) -}}
{{- if .Values.tls.enabled -}}
{{- $tls := dict "certificate" "/etc/nearline/tls/tls.crt" "key" "/etc/nearline/tls/tls.key" -}}
{{- if .Values.tls.clientAuth -}}
{{- $_ := set $tls "client_ca" "/etc/nearline/tls/ca.crt" -}}
{{- end -}}
{{- $_ := mustMergeOverwrite $config (dict "tls" $tls) -}}
{{- end -}}
{{- if include "nearline.accessSecret" . -}}
{{- $_ := mustMergeOverwrite $config (dict "access" (dict "file" "/etc/nearline/access/callers.yaml")) -}}
{{- end -}}
{{- if .Values.backup.enabled -}}
{{- $_ := mustMergeOverwrite $config (dict "backup" (dict "dir" "/var/backups/nearline")) -}}
{{- end -}}
{{- if .Values.trainer.sidecar -}}
{{- $_ := mustMergeOverwrite $config (dict "training" (dict "socket" "/run/nearline/trainer.sock")) -}}
{{- end -}}
{{- if and (or .Values.gpu.enabled .Values.trainer.gpu) (not (hasKey $config "device")) -}}
{{- $_ := set $config "device" "auto" -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Fails where values contradict each other. */}}
{{- define "nearline.check" -}}
{{- if not (or .Values.tls.enabled .Values.allowPlaintext) -}}
{{- fail "gRPC would be served without TLS. Set tls.enabled=true and tls.secretName to a kubernetes.io/tls secret (or tls.certManager), or allowPlaintext=true on a network that you trust" -}}
{{- end -}}
{{- if and .Values.tls.enabled (not .Values.tls.secretName) (not .Values.tls.certManager.enabled) -}}
{{- fail "tls.enabled needs tls.secretName, a kubernetes.io/tls secret, or tls.certManager.enabled" -}}
{{- end -}}
{{- if and (not .Values.tls.enabled) (or .Values.tls.clientAuth .Values.tls.certManager.enabled) -}}
{{- fail "tls.clientAuth and tls.certManager need tls.enabled=true" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and .Values.access.secretName .Values.access.callers -}}
{{- fail "access.secretName and access.callers are both set; give one of them" -}}
{{- end -}}
{{- range .Values.access.callers -}}
{{- $name := .name -}}
{{- range .tokens -}}
{{- if not (regexMatch "^[0-9A-Fa-f]{64}$" .) -}}
{{- /* Not repeated: it may be the token itself, put here by mistake. */ -}}
{{- fail (printf "access.callers: tokens of %s: expected hashes of 64 hex digits" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $config := default dict .Values.config -}}
{{- $serving := default dict $config.serving -}}
{{- $drain := ternary (get $serving "drain") "20s" (hasKey $serving "drain") -}}
{{- $least := addf (include "nearline.seconds" $drain | float64) 10 -}}
{{- if lt (float64 .Values.terminationGracePeriodSeconds) $least -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but config.serving.drain is %v: the pod would be killed while it drains. Give it at least %v" (int64 .Values.terminationGracePeriodSeconds) $drain (ceil $least)) -}}
{{- end -}}
{{- $store := default dict $config.store -}}
{{- $caches := add (default 64 $store.hot_profiles_mb) (default 32 $store.block_cache_mb) (default 64 $store.write_buffer_mb) (default 512 (default dict $config.limits).messages_mb) -}}
{{- $training := default 4096 (default dict $config.training).memory_mb -}}
{{- $of := "store.hot_profiles_mb + store.block_cache_mb + store.write_buffer_mb + limits.messages_mb" -}}
{{- if .Values.trainer.sidecar -}}
{{- include "nearline.fits" (dict "name" "trainer.resources" "resources" .Values.trainer.resources "needed" (add $training 512) "of" "training.memory_mb + 512") -}}
{{- include "nearline.fits" (dict "name" "resources" "resources" .Values.resources "needed" $caches "of" $of) -}}
{{- else -}}
{{- include "nearline.fits" (dict "name" "resources" "resources" .Values.resources "needed" (add $training $caches) "of" (print "training.memory_mb + " $of)) -}}
{{- end -}}
{{- if and .Values.trainer.gpu (not .Values.trainer.sidecar) -}}
{{- fail "trainer.gpu needs trainer.sidecar=true" -}}
{{- end -}}
{{- end -}}

{{/* Fails where a limit on memory does not hold what is configured. */}}
{{- define "nearline.fits" -}}
{{- $limit := "" -}}
{{- with (default dict (default dict .resources).limits).memory -}}
{{- $limit = include "nearline.mebibytes" . -}}
{{- end -}}
{{- if $limit -}}
{{- if lt (int64 $limit) (int64 .needed) -}}
{{- fail (printf "%s.limits.memory is %s MiB, but %d may be taken: %s. Raise the limit or lower these in config" .name $limit (int64 .needed) .of) -}}
{{- end -}}
{{- end -}}
{{- end -}}
