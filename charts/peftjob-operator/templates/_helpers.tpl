{{/* Name of the chart, or its override. */}}
{{- define "peftjob-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Prefix of every object's name: RELEASE-NAME, or RELEASE alone where it already says what it is. */}}
{{- define "peftjob-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "peftjob-operator.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Labels that a selector may rely on: they never change between versions of the chart. */}}
{{- define "peftjob-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "peftjob-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of every object but the pods' selectors. */}}
{{- define "peftjob-operator.labels" -}}
{{ include "peftjob-operator.selectorLabels" . }}
app.kubernetes.io/part-of: peftjob
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "peftjob-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "peftjob-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Reference of an image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]. Takes a list of the root and the image's values. */}}
{{- define "peftjob-operator.image" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- with $root.Values.imageRegistry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}
{{- if $image.tag }}:{{ $image.tag }}{{ else if not $image.digest }}:{{ $root.Chart.AppVersion }}{{ end }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Restricted pod security (https://kubernetes.io/docs/concepts/security/pod-security-standards/), of a pod. */}}
{{- define "peftjob-operator.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.operator.runAsUser }}
runAsUser: {{ . | int64 }}
runAsGroup: {{ . | int64 }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The same, of a container. */}}
{{- define "peftjob-operator.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
