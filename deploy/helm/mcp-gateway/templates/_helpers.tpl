{{- define "gateway.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "gateway.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* What makes a chart that would not do as it says. */ -}}
{{- define "gateway.validate" -}}
{{- if gt (int .Values.replicas) 1 }}
{{- $named := keys .Values.secrets.variables }}
{{- range .Values.env }}
{{- $named = append $named (trimSuffix "_FILE" .name) }}
{{- end }}
{{- range list "GATEWAY_DATABASE_URL" "GATEWAY_VALKEY_URL" }}
{{- if not (has . $named) }}
{{- fail (printf "replicas above 1 need secrets.variables.%s: they have wallets, keys and sessions together in one PostgreSQL, and count limits together in one Valkey" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.secrets.variables (not .Values.secrets.existing) }}
{{- fail "secrets.variables needs secrets.existing: the name of the Secret that has these keys" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not (hasKey .Values.secrets.variables "GATEWAY_METRICS_TOKEN")) }}
{{- fail "metrics.serviceMonitor needs secrets.variables.GATEWAY_METRICS_TOKEN: without the token /metrics is for the pod itself alone" }}
{{- end }}
{{- range .Values.env }}
{{- if has .name (list "GATEWAY_HOST" "GATEWAY_PORT" "GATEWAY_DATA_DIR" "GATEWAY_DRAIN_ANNOUNCE_S" "GATEWAY_DRAIN_TIMEOUT_S") }}
{{- fail (printf "env has %s, which the chart sets: see `drain`; the port and the folder are those of its probes and its volume" .name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gateway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "gateway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "gateway.environment" -}}
env:
  - name: GATEWAY_HOST
    value: 0.0.0.0
  - name: GATEWAY_PORT
    value: "8080"
  - name: GATEWAY_DATA_DIR
    value: /var/lib/mcp-gateway
  - name: GATEWAY_DRAIN_ANNOUNCE_S
    value: {{ .Values.drain.announceSeconds | quote }}
  - name: GATEWAY_DRAIN_TIMEOUT_S
    value: {{ .Values.drain.timeoutSeconds | quote }}
  {{- range $variable, $key := .Values.secrets.variables }}
  - name: {{ $variable }}_FILE
    value: /run/secrets/mcp-gateway/{{ $key }}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "gateway.mounts" -}}
- name: config
  mountPath: /etc/mcp-gateway
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if .Values.secrets.existing }}
- name: secrets
  mountPath: /run/secrets/mcp-gateway
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Of a pod whose configuration is in the ConfigMap `config`. */ -}}
{{- define "gateway.volumes" -}}
- name: config
  configMap:
    name: {{ .config }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with .root.Values.secrets.existing }}
- name: secrets
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
