// Package v1beta1 stands in for the kinds of virt-template: the fields that KubeVirt's commands use, and no other.
package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kubevirt.io/virt-template-api/core"
)

// ConditionReady is the type of a template's condition.
const ConditionReady = "Ready"

// GroupVersion of both kinds.
var GroupVersion = schema.GroupVersion{Group: core.GroupName, Version: "v1beta1"}

// VirtualMachineTemplate is a VirtualMachine with parameters.
type VirtualMachineTemplate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VirtualMachineTemplateSpec   `json:"spec"`
	Status VirtualMachineTemplateStatus `json:"status,omitempty"`
}

type VirtualMachineTemplateSpec struct {
	VirtualMachine *runtime.RawExtension `json:"virtualMachine,omitempty"`
	Parameters     []Parameter           `json:"parameters,omitempty"`
	Message        string                `json:"message,omitempty"`
}

type VirtualMachineTemplateStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

type Parameter struct {
	Name        string `json:"name"`
	DisplayName string `json:"displayName,omitempty"`
	Description string `json:"description,omitempty"`
	Value       string `json:"value,omitempty"`
	Generate    string `json:"generate,omitempty"`
	From        string `json:"from,omitempty"`
	Required    bool   `json:"required,omitempty"`
}

// DeepCopy shares nothing with the original.
func (t *VirtualMachineTemplate) DeepCopy() *VirtualMachineTemplate {
	copied := &VirtualMachineTemplate{TypeMeta: t.TypeMeta, ObjectMeta: *t.ObjectMeta.DeepCopy()}
	copied.Spec = t.Spec
	copied.Spec.VirtualMachine = t.Spec.VirtualMachine.DeepCopy()
	copied.Spec.Parameters = append([]Parameter(nil), t.Spec.Parameters...)
	copied.Status.Conditions = append([]metav1.Condition(nil), t.Status.Conditions...)
	return copied
}

// DeepCopyObject makes it a runtime.Object.
func (t *VirtualMachineTemplate) DeepCopyObject() runtime.Object { return t.DeepCopy() }

// VirtualMachineTemplateRequest asks for a template of a VirtualMachine.
type VirtualMachineTemplateRequest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VirtualMachineTemplateRequestSpec `json:"spec"`
}

type VirtualMachineTemplateRequestSpec struct {
	VirtualMachineRef VirtualMachineReference `json:"virtualMachineRef"`
	TemplateName      string                  `json:"templateName,omitempty"`
}

type VirtualMachineReference struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}
