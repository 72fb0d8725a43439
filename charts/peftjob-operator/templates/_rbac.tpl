{{/*
What the operator may do in a namespace whose PeftJobs it reconciles. Exactly what it uses: tests/unit/chart holds this
list against peftjob_operator.settings. No wildcard, and no Secrets: the operator only names them.
*/}}
{{- define "peftjob-operator.namespacedRules" -}}
- apiGroups: [peftjob.io]
  resources: [peftjobs]
  verbs: [get, list, watch, delete]
- apiGroups: [peftjob.io]
  resources: [peftjobs/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end }}
