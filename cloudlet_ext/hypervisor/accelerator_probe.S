/* SPDX-License-Identifier: Apache-2.0 */
/* The boot sector in accelerator.py. Real mode, then long mode with paging, 16 MiB written and read back, the page
   tables changed: what a kernel does first, and what a hypervisor that does not work hangs in. Then "K" to port 0xe9.
   as --64 X.S -o X.o && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary X.o -o X.bin */
    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    inb $0x92, %al
    orb $2, %al
    outb %al, $0x92
    movl $0x1000, %edi
    movl %edi, %cr3
    xorl %eax, %eax
    movl $0xc00, %ecx
    cld
    rep stosl
    movl $0x2003, 0x1000
    movl $0x3003, 0x2000
    movl $0x3000, %edi
    movl $0x83, %eax
    movl $32, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    lgdtl gdtr
    ljmpl $8, $long_mode
    .code64
long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0x400000, %edi
    movl $0x200000, %ecx
    movabsq $0x0123456789abcdef, %rax
    rep stosq
    movl $0x400000, %esi
    movl $0x200000, %ecx
    xorl %edx, %edx
2:  lodsq
    addq %rax, %rdx
    decl %ecx
    jnz 2b
    movq $0, 0x3010        /* unmap 4 MiB.. and reload: the page walk must notice */
    movq %cr3, %rax
    movq %rax, %cr3
    cpuid
    movb $'K', %al
    outb %al, $0xe9
3:  hlt
    jmp 3b
    .balign 8
gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdtr:
    .word 23
    .long gdt
    .org 510
    .word 0xaa55
