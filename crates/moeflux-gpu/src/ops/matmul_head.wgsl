//#if HALF
enable f16;
//#endif
//#if COOP
enable wgpu_cooperative_matrix;
//#endif
