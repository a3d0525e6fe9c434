{{- define "preheat.fullname" -}}
{{- if contains "preheat" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-preheat" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "preheat.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "preheat.fullname" .) -}}
{{- end -}}

{{- define "preheat.selector" -}}
app.kubernetes.io/name: preheat
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "preheat.labels" -}}
{{ include "preheat.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "preheat.frontSelector" -}}
app.kubernetes.io/name: preheat-front
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "preheat.frontLabels" -}}
{{ include "preheat.frontSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "preheat.tag" -}}
{{- .Values.images.tag | default .Chart.AppVersion -}}
{{- end -}}
