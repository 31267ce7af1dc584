//! What wit-bindgen makes of `wit/`. Names in here follow the interface, not this crate's style.
//!
//! A world of the interface is made of two parts that the linker puts together: `base`, which every plugin has, and one that is
//! particular to it. (Bindings of two whole worlds cannot live in one crate: both would export `lifecycle`.)
#![allow(warnings, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated code")]

pub mod base {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tidegate:sdk;
            world base {
                import tidegate:plugin/types@0.1.2;
                import tidegate:plugin/log@0.1.2;
                import tidegate:plugin/metrics@0.1.2;
                export tidegate:plugin/lifecycle@0.1.2;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_base",
        runtime_path: "::tidegate_sdk::__private::wit_bindgen::rt",
        generate_all,
    });
}

pub mod router {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tidegate:sdk;
            world router {
                import tidegate:plugin/topics@0.1.2;
                export tidegate:plugin/routing@0.1.2;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_router",
        runtime_path: "::tidegate_sdk::__private::wit_bindgen::rt",
        generate_all,
        with: { "tidegate:plugin/types@0.1.2": crate::bindings::base::tidegate::plugin::types },
    });
}

pub mod partitioner {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tidegate:sdk;
            world partitioner {
                export tidegate:plugin/partitioning@0.1.2;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_partitioner",
        runtime_path: "::tidegate_sdk::__private::wit_bindgen::rt",
        generate_all,
        with: { "tidegate:plugin/types@0.1.2": crate::bindings::base::tidegate::plugin::types },
    });
}

pub mod ack {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tidegate:sdk;
            world ack {
                export tidegate:plugin/acknowledging@0.1.2;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_ack",
        runtime_path: "::tidegate_sdk::__private::wit_bindgen::rt",
        generate_all,
        with: { "tidegate:plugin/types@0.1.2": crate::bindings::base::tidegate::plugin::types },
    });
}

pub mod retention {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tidegate:sdk;
            world retention {
                export tidegate:plugin/retaining@0.1.2;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_retention",
        runtime_path: "::tidegate_sdk::__private::wit_bindgen::rt",
        generate_all,
        with: { "tidegate:plugin/types@0.1.2": crate::bindings::base::tidegate::plugin::types },
    });
}

pub mod filter {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tidegate:sdk;
            world filter {
                export tidegate:plugin/filtering@0.1.2;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_filter",
        runtime_path: "::tidegate_sdk::__private::wit_bindgen::rt",
        generate_all,
        with: { "tidegate:plugin/types@0.1.2": crate::bindings::base::tidegate::plugin::types },
    });
}

pub mod offload {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tidegate:sdk;
            world offload {
                export tidegate:plugin/offloading@0.1.2;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_offload",
        runtime_path: "::tidegate_sdk::__private::wit_bindgen::rt",
        generate_all,
        with: { "tidegate:plugin/types@0.1.2": crate::bindings::base::tidegate::plugin::types },
    });
}
