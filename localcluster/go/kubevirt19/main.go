// Command plugin-check does to a libvirt domain what KubeVirt 1.9 would: it takes a Plugin, a domain and the labels of
// its VirtualMachineInstance as JSON ({"plugin": ..., "domain": "<domain .../>", "labels": {...}, "arguments": [...]}) on
// its input, compiles the Plugin's expressions as the admission webhook does, applies them as virt-launcher does, and
// prints the domain. "arguments" are those of QEMU's command line: KubeVirt's types cannot read them from XML.
package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"

	v1 "kubevirt.io/api/core/v1"
	pluginv1alpha1 "kubevirt.io/api/plugin/v1alpha1"

	"kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/api"
	"kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/plugins"
	"kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/plugins/cel"
)

func check() error {
	var input struct {
		Plugin    pluginv1alpha1.Plugin `json:"plugin"`
		Domain    string                `json:"domain"`
		Labels    map[string]string     `json:"labels"`
		Arguments []string              `json:"arguments"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		return fmt.Errorf("input: %w", err)
	}
	if condition := input.Plugin.Spec.Condition; condition != "" {
		if err := cel.GetEvaluator().CompileCondition(condition); err != nil {
			return fmt.Errorf("refused at admission: %w", err)
		}
	}
	for _, hook := range input.Plugin.Spec.DomainHooks {
		if err := cel.GetEvaluator().CompileMutation(hook.CEL.Expression); err != nil {
			return fmt.Errorf("refused at admission: %w", err)
		}
	}
	spec := &api.DomainSpec{}
	if err := xml.Unmarshal([]byte(input.Domain), spec); err != nil {
		return fmt.Errorf("domain: %w", err)
	}
	if len(input.Arguments) > 0 {
		spec.XmlNS = "http://libvirt.org/schemas/domain/qemu/1.0"
		spec.QEMUCmd = &api.Commandline{QEMUEnv: []api.Env{{Name: "OWN", Value: "1"}}}
		for _, argument := range input.Arguments {
			spec.QEMUCmd.QEMUArg = append(spec.QEMUCmd.QEMUArg, api.Arg{Value: argument})
		}
	}
	vmi := &v1.VirtualMachineInstance{}
	vmi.Labels = input.Labels
	_, text, err := plugins.ApplyDomainHooks(
		[]pluginv1alpha1.Plugin{input.Plugin}, vmi, spec, pluginv1alpha1.InvocationContextBoot)
	if err != nil {
		return fmt.Errorf("applied: %w", err)
	}
	fmt.Println(text)
	return nil
}

func main() {
	if err := check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
