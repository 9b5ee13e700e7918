{{/* Name of an image, of (list $ image): registry/repository:tag@digest. */}}
{{- define "kigi.image" -}}
{{- $image := index . 1 -}}
{{- with (index . 0).Values.images.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- with $image.tag }}:{{ . }}{{ end -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{/* Image of the hook in VMs' pods; the operator's image has it, too. */}}
{{- define "kigi.hookImage" -}}
{{- include "kigi.image" (list . (ternary .Values.images.hook .Values.images.operator (ne .Values.images.hook.repository ""))) -}}
{{- end }}

{{/* Value of an environment variable. Numbers are written as they are given: quote alone makes 5.24288e+07 of 52428800. */}}
{{- define "kigi.text" -}}
{{- if kindIs "string" . }}{{ . | quote }}{{ else }}{{ toJson . | quote }}{{ end -}}
{{- end }}
