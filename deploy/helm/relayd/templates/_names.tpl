{{- define "relayd.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: relayd
{{- end -}}

{{- define "relayd.redisLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: relayd-redis
{{- end -}}

{{- define "relayd.name" -}}
{{- if contains "relayd" .Release.Name -}}{{ .Release.Name }}{{- else -}}{{ .Release.Name }}-relayd{{- end -}}
{{- end -}}

{{- define "relayd.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-pulling" "" (ne .Values.source.url ""))) }}
{{- end -}}

{{- define "relayd.stateUrl" -}}
{{- if .Values.state.url -}}{{ .Values.state.url }}
{{- else if .Values.redis.enabled -}}redis://{{ include "relayd.name" . }}-redis:6379/0
{{- else -}}{{ fail "state.url: needed where redis.enabled is false" }}
{{- end -}}
{{- end -}}

{{/* A ConfigMap has no directories: the name of a key for a file of the tree. */}}
{{- define "relayd.treeKey" -}}{{ . | replace "/" "__" }}{{- end -}}
