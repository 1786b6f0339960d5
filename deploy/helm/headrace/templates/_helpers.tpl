{{- define "headrace.name" -}}
{{ default .Release.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "headrace.labels" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headrace.image" -}}
{{ .repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- /* TOML from the values' settings: a table for each section, and one for each table in it. */ -}}
{{- define "headrace.toml" -}}
{{- range $section, $values := .Values.settings }}
[{{ $section }}]
{{- range $key, $value := $values }}
{{- if not (kindIs "map" $value) }}
{{ $key }} = {{ include "headrace.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := $values }}
{{- if kindIs "map" $value }}
[{{ $section }}.{{ $key }}]
{{- range $name, $inner := $value }}
{{ $name | quote }} = {{ include "headrace.tomlValue" $inner }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* YAML knows numbers as floats: whole ones are written as such. JSON's texts, booleans and lists are TOML's too. */ -}}
{{- define "headrace.tomlValue" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{- define "headrace.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "headrace.env" -}}
- {name: HEADRACE_CONFIG, value: /etc/headrace/headrace.toml}
{{- range $name, $value := .Values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "headrace.mounts" -}}
- {name: settings, mountPath: /etc/headrace, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- range $name, $secret := .Values.secrets }}
- {name: secret-{{ $name }}, mountPath: /run/secrets/{{ $name }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "headrace.volumes" -}}
- name: settings
  configMap: {name: {{ include "headrace.name" . }}}
- name: tmp
  emptyDir: {}
{{- range $name, $secret := .Values.secrets }}
- name: secret-{{ $name }}
  secret: {secretName: {{ $secret }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "headrace.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 5
  failureThreshold: 24
livenessProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{- /* A name of the settings, or its default with kafka.prefix, as the engine has it. */ -}}
{{- define "headrace.prefixed" -}}
{{- $section := get .root.Values.settings .section | default dict }}
{{- $prefix := .root.Values.settings.kafka.prefix }}
{{- if hasKey $section .key }}{{ get $section .key }}{{ else if $prefix }}{{ $prefix }}.{{ .default }}{{ else }}{{ .default }}{{ end }}
{{- end }}
